"""The audit: from one answer back to the raw files, and who was champion when.

The ledger is verified first, the certificate is verified against the trusted keys, and each
stored object's digest is recomputed. The prediction log is neither signed nor chained: the
certified model must give the recorded score again from the recorded inputs. What cannot be
verified is told as such; what is false is told too, and then the audit fails.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flytekit import task

from feature_repo.errors import (
    AirworthyError,
    CertificateError,
    LedgerError,
    SkewError,
    StateError,
)
from feature_repo.home import Home, file_digest, open_home
from feature_repo.registry import USE_CASES
from feature_repo.tables import content_digest, table_place
from serving import certificate, ledger, predictions, revocations
from serving.artifact import content_of, read_model
from serving.predictions import Prediction
from serving.recompute import recompute
from tasks.champions import history
from tasks.ledger import own_trust
from tasks.probe import agree
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL


@task(
    retries=1,
    timeout=600,
    requests=SMALL,
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def audit_report(prediction_id: str, model: str) -> str:
    """The chain behind a prediction, the history of a model, or both.

    Raises:
        LedgerError: the ledger was changed; names the line.
        StateError: the prediction or the model is unknown, a stored table was changed, or what
            servers load is not the champion.
        CertificateError: the model is not the one that was certified.
        SkewError: the certified model does not give the recorded score.
    """
    return audit(open_home(), prediction_id, model)


def audit(home: Home, prediction_id: str = "", model: str = "") -> str:
    """The report as a text; it is printed before what is false is raised. See ``audit_report``."""
    if not prediction_id and not model:
        raise StateError(
            "nothing to audit: give --prediction_id (from an answer) or --model (a use case)"
        )
    told = ledger.verify(home, own_trust(home))
    lines = [f"ledger: {len(told)} entries, chain and signed head verified"]
    faults: list[AirworthyError] = []
    if prediction_id:
        lines += ["", *trace(home, prediction_id, faults)]
    if model:
        lines += ["", *history(home, model, faults)]
    text = "\n".join(lines)
    if faults:
        print(text)
        raise type(faults[0])("; ".join(map(str, faults)))
    return text


def trace(home: Home, prediction_id: str, faults: list[AirworthyError]) -> list[str]:
    """Lines from the prediction to the raw files; what is false is added to ``faults``.

    Raises:
        StateError: no prediction has this id, or its record is none.
        LedgerError: the ledger knows no certificate of the model that answered.
    """
    found = predictions.find(home, prediction_id)
    if found is None:
        raise StateError(
            f"no prediction {prediction_id!r} in {home.root / 'predictions'}; take the id from "
            "an answer, and set AIRWORTHY_HOME to the home of the server that gave it"
            + _unsampled(home, prediction_id)
        )
    told = _certified(home, found.subject, found.certificate)
    facts = told["facts"]
    directory = home.root / "models" / facts["use_case"] / found.subject
    lines = [
        f"prediction   {found.id} ({found.source}): {found.score:.6f}, answered {_iso(found.at)}",
        f"  request    {', '.join(f'{k}={v}' for k, v in found.fields.items())}",
        f"  as of      {_iso(found.prediction_time)}, {_read_from(found)}",
        f"model        {facts['use_case']} {facts['version']}, subject {found.subject}",
    ]
    if not directory.is_dir():
        return [*lines, *_from_ledger(told)]
    issued = certificate.read(directory)
    score = "not recomputed, since its model is not the one that was certified"
    fault = _fault(home, directory, issued, found.subject)
    if fault:
        faults.append(CertificateError(f"certificate {found.certificate}: {fault}"))
    else:
        try:
            score = _recomputed(directory, issued, found)
        except (SkewError, StateError) as exc:
            faults.append(exc)
            score = "FAILED: not the score of the recorded inputs"
    said = f"FAILED: {fault}" if fault else _verified(home, issued)
    lines += [f"  score      {score}", f"certificate  {found.certificate}: {said}"]
    if issued.id != found.certificate:
        lines.append(f"  renewed    as {issued.id}; the ledger's entry {told['n']} names the first")
    lines += released(home, found.use_case, found.subject, faults)
    return [*lines, *_made_from(home, issued.predicate, faults)]


def _unsampled(home: Home, prediction_id: str) -> str:
    """That an answer may be missing since not all were to be recorded."""
    share = predictions.share_recorded(home, prediction_id)
    if share >= 1:
        return ""
    part = f"{100 * share:g} % of its requests"
    return f"; a server recorded {part} then, and this one may not be in them"


def _read_from(found: Prediction) -> str:
    """Where the model's inputs came from."""
    if found.fallback:
        return f"the request alone, by the model's fallback ({found.fallback.replace(',', ', ')})"
    if found.tick is None:
        return "a vector that the caller sent"
    return f"features of tick {_iso(found.tick)}"


def _certified(home: Home, subject: str, certificate_id: str) -> dict[str, Any]:
    """The ledger's entry of the certificate under which an answer was given."""
    for entry in ledger.entries(home):
        same = (entry["kind"], entry["subject"]) == ("certificate", subject)
        if same and entry["facts"]["certificate"] == certificate_id:
            return entry
    raise LedgerError(
        f"the ledger has no entry of certificate {certificate_id} over subject {subject[:12]}: "
        "the answer was given by a model that this home did not certify; find out which server "
        "gave it"
    )


def _fault(home: Home, directory: Path, issued: certificate.Certificate, subject: str) -> str:
    """Why the model in a directory is not what its certificate says, or nothing.

    Being past its date does not make it false: an old answer was given under it.
    """
    try:
        certificate.verify(
            directory, own_trust(home), revoked=(), released=True, now=datetime.now(UTC)
        )
    except CertificateError as exc:
        return str(exc)
    return "" if issued.subject == subject else "it is of another model"


def _verified(home: Home, issued: certificate.Certificate) -> str:
    """A certificate without fault, in words."""
    revoked = revocations.against(
        revocations.revoked(home, own_trust(home)), {issued.id}, content_of(issued.files)
    )
    key = "development key" if issued.development else "key"
    state = "expired" if issued.expired(datetime.now(UTC)) else "valid until"
    said = f"verified, every file as signed by {key} {issued.predicate['signer']['keyid']}, "
    return f"{said}{state} {issued.expires_at.date()}{', REVOKED' if revoked else ''}"


def _recomputed(directory: Path, issued: certificate.Certificate, found: Prediction) -> str:
    """That the model gives the recorded score again; or that this program cannot ask it."""
    model = read_model(directory, issued.files)
    declared = USE_CASES.get(model.use_case)
    if declared is None or declared.declaration != model.declaration:
        return (
            f"not recomputed, since the model reads feature declaration {model.declaration[:12]}, "
            "which this program does not declare; audit with the program that trained it"
        )
    again = recompute(declared, directory, issued.files, found)
    if not agree(again, found.score):
        raise SkewError(
            f"prediction {found.id}: {found.score!r} is recorded, but the model {found.subject} "
            f"gives {again!r} to the recorded inputs; the prediction log was changed: find out by "
            "whom, and restore it"
        )
    return "recomputed from the recorded inputs by this model: equal"


def released(home: Home, use_case: str, subject: str, faults: list[AirworthyError]) -> list[str]:
    """The signed statement of the model's release: what was compared before it."""
    try:
        statement = certificate.release_statement(home, use_case, subject, own_trust(home))
    except CertificateError as exc:
        faults.append(exc)
        return [f"released     FAILED: {exc}"]
    if statement is None:
        return ["released     never"]
    said = statement.predicate
    lines = [f"released     {said['released_at']}"]
    if parity := said.get("parity"):
        path = certificate.release_path(home, use_case, subject).with_name(
            certificate.PARITY_REPORT
        )
        lines += [
            f"  parity     online against offline as of {parity['tick']}: {parity['rows']:,} rows, "
            f"{parity['values']:,} values, {parity['mismatches']:,} mismatches",
            f"  report     {parity['report']} {_kept(path, parity['report'], faults)}",
        ]
    return lines


def _kept(path: Path, digest: str, faults: list[AirworthyError]) -> str:
    """Whether a file is still there, as it was signed."""
    if not path.exists():
        return "(no longer stored)"
    return _same(path, file_digest(path) == digest, faults)


def _made_from(home: Home, predicate: dict[str, Any], faults: list[AirworthyError]) -> list[str]:
    """Execution, training rows, quarantine and raw files of a certificate."""
    training, data = predicate["training"], predicate["data"]
    splits = ", ".join(f"{s['rows']:,} {name}" for name, s in training["splits"].items())
    code = predicate["code"]
    return [
        f"execution    {predicate['execution']}, code {code['version']} {code['commit'][:12]}",
        f"training set {training['rows']:,} rows, of them {splits}",
        f"  table      {training['table']} {_stored(home, training['table'], faults)}",
        *(
            f"features     {name} {digest} {_stored(home, digest, faults)}"
            for name, digest in predicate["features"]["views"].items()
        ),
        *(
            f"clean table  {name}, {t['rows']:,} rows, {t['digest']} "
            f"{_stored(home, t['digest'], faults)}"
            for name, t in data["tables"].items()
        ),
        f"quarantine   {data['quarantine']['rows']:,} rows",
        *(
            f"  {c['rows']:>6,}     {c['table']}.{c['column']}: {c['check']}"
            for c in data["quarantine"]["checks"]
        ),
        *_raw_files(data["sources"]),
    ]


def _raw_files(sources: list[dict[str, Any]]) -> list[str]:
    return [
        f"raw file     {s['name']}, {s['bytes']:,} bytes, sha256 {s['sha256']}" for s in sources
    ]


def _stored(home: Home, digest: str, faults: list[AirworthyError]) -> str:
    """Whether a table is still stored, as it was."""
    place = table_place(home, digest)
    if not place.exists():
        return "(no longer stored)"
    return _same(place, content_digest(place) == digest, faults)


def _same(path: Path, same: bool, faults: list[AirworthyError]) -> str:
    if same:
        return "(stored, verified)"
    faults.append(StateError(f"stored {path} was changed: find out by whom, and restore it"))
    return "(stored, but CHANGED)"


def _from_ledger(told: dict[str, Any]) -> list[str]:
    """What is left of a model whose directory was cleaned away."""
    facts = told["facts"]
    return [
        f"certificate  {facts['certificate']}: the model directory is no longer stored; what "
        f"follows is the ledger's entry {told['n']} of {told['at']}",
        f"execution    {facts['execution']}",
        f"training set table {facts['training_set']}",
        *_raw_files(facts["sources"]),
    ]


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
