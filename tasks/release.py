"""Release: what is stored online equals what is stored offline, a server process proves that it
answers as the model did offline; then it is signed, with the figures of both.

The order of writing makes a kill harmless: manifest, report, signed statement, ledger entry. A
rerun finds the statement and only completes what is missing after it. What servers load changes
with the promotion that follows (``tasks.promotion``), and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from html import escape
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from flytekit import Deck, task

from feature_repo.contract import UseCase
from feature_repo.errors import PromotionError
from feature_repo.home import (
    Home,
    crd_path,
    file_digest,
    write_atomically,
)
from feature_repo.offline import newest
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.store import materialise
from feature_repo.tables import Table
from serving import ledger
from serving.capacity import read_scale
from serving.certificate import (
    PARITY_REPORT,
    RELEASE_TYPE,
    Certificate,
    clear,
    read,
    release_path,
    release_statement,
)
from serving.dsse import signing_key
from serving.manifest import build, configured, to_yaml
from serving.manifest_rules import validate
from serving.online import OnlineStore
from serving.statements import Statement, write_statement
from tasks.ledger import append, own_trust
from tasks.materialise import filled_from, held_tick, last_busy_tick
from tasks.parity import Parity, check_parity
from tasks.probe import Probed, probe, sample_requests
from tasks.resources import DATA, SIGNING_ENVIRONMENT, SIGNING_KEY
from tasks.steps import StepLog, step
from tasks.types import State, Step


@dataclass(frozen=True)
class Release:
    """A release: subject digest, manifest file, how many requests were probed and the largest
    difference between a served and an offline answer, the id of one probed prediction.
    ``released`` is False for a model that the gate refused; ``already``: released before."""

    subject: str
    manifest: str
    probes: int
    max_difference: float
    prediction_id: str
    released: bool
    already: bool


class Released(NamedTuple):
    """The release, and what the step did."""

    release: Release
    step: Step


# Not cached: a release is a fact about now.
@task(
    requests=DATA,
    retries=1,
    timeout=timedelta(minutes=20),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
    enable_deck=True,
    deck_fields=(),
)
def release(
    state: State,
    use_case: str,
    model_dir: str,
    views: list[Table],
    training_set: Table,
    passed: bool,
    probes: int = 20,
) -> Released:
    """Start the model's server, compare its answers with offline predictions, sign the release.

    A model that the gate refused is not released, and the pipeline goes on to say so. Repeating
    the step for a released model starts no server and signs nothing anew.

    Raises:
        SkewError: a served answer differs from the offline one, or an online row does, in the
            store that live requests are answered from too.
        StateError: the server did not become ready, or the store has no request to compare.
        CertificateError: the model's certificate does not hold.
    """
    with step("release") as log:
        if not passed:
            log.say("refused by the gate: nothing is released")
            refused = Release(Path(model_dir).name, "", 0, 0.0, "", False, False)
            return Released(refused, log.record)
        home, declared = state.home(), get_use_case(use_case)
        with home.lock(f"release-{use_case}"):
            tick = last_busy_tick(training_set)
            with store_to_ask(home, declared, views, tick) as place:
                made = release_model(
                    place, declared, Path(model_dir), views, training_set, probes, log
                )
    return Released(made, log.record)


@contextmanager
def store_to_ask(
    home: Home, use_case: UseCase, views: list[Table], tick: datetime
) -> Iterator[Home]:
    """The home with its online store as of ``tick``, under the release lock.

    Live requests are answered from a store that is of a later tick: it stays as it is, and the
    home comes with a store of its own, which is gone at the end of the block; a release then
    compares the live one too.
    """
    held = held_tick(home, use_case)
    if held is None or held <= tick:
        # Another run may have filled the store since; the lock keeps it as it is from here.
        materialise(home, use_case, views, tick)
        yield home
        return
    with TemporaryDirectory(prefix="airworthy-release-") as folder:
        place = replace(home, online=folder)
        materialise(place, use_case, views, tick)
        yield place


def release_model(
    home: Home, use_case: UseCase, model_dir: Path, views: list[Table], training_set: Table,
    probes: int, log: StepLog,
) -> Release:  # fmt: skip
    """Release a certified model once, under the home's release lock; see ``release``.

    Raises:
        PromotionError: its certificate says that the gate refused it.
    """
    trust = own_trust(home)
    gate = read(model_dir).predicate.get("gate") or {}
    if gate.get("passed") is not True:
        raise PromotionError(
            f"the gate refused the model in {model_dir}: it is never released; train one "
            "that passes"
        )
    certificate = clear(home, model_dir, trust, datetime.now(timezone.utc)).certificate
    statement = release_statement(home, use_case.name, certificate.subject, trust)
    already = statement is not None
    if statement is None:
        if home.online:  # the model will be answered from the live store, not from this one
            live = check_live(replace(home, online=""), use_case)
            log.say(f"the live store as of {live.tick}, {live.describe()}")
        parity = check_parity(home, use_case, views)
        log.say(parity.describe())
        probed = _prove(home, use_case, model_dir, training_set, probes, certificate, log)
        write_manifest(home, use_case, certificate, log)
        statement = _sign(home, use_case, certificate, parity, probed)
    else:
        log.say(f"already released at {statement.predicate['released_at']}")
    said = statement.predicate
    _tell(home, use_case, certificate, said.get("parity"))
    return Release(
        subject=certificate.subject,
        manifest=str(_manifest_path(home, use_case, certificate)),
        probes=said["probes"],
        max_difference=said["max_difference"],
        prediction_id=said["prediction_id"],
        released=True,
        already=already,
    )


def check_live(home: Home, use_case: UseCase) -> Parity:
    """Compare the live store with the version that it was filled from; with the newest one, where
    that is no longer kept. A version that came since, and will fill it next, may differ.

    Raises:
        SkewError: one value or more differs.
        StateError: there is no version of the features, or the store does not answer.
    """
    version = filled_from(home, use_case) or newest(home, use_case)
    return check_parity(home, use_case, version.built.views)


def _prove(
    home: Home, use_case: UseCase, model_dir: Path, training_set: Table, probes: int,
    certificate: Certificate, log: StepLog,
) -> list[Probed]:  # fmt: skip
    store = OnlineStore(rows_of(home, use_case), use_case)
    tick = store.tick
    store.close()
    rows = sample_requests(use_case, training_set, tick, probes)
    probed = probe(home, use_case, model_dir, rows, certificate.development)
    worst = max(p.difference for p in probed)
    log.say(
        f"{len(probed)} requests as of {tick:%Y-%m-%d %H:%M}Z asked over HTTP: largest difference "
        f"to offline {worst:.1e}; for example prediction {probed[0].prediction_id}"
    )
    Deck("Release", _table(probed))
    return probed


def write_manifest(home: Home, use_case: UseCase, certificate: Certificate, log: StepLog) -> Path:
    """The checked InferenceService of a model, with the settings that a load test found.

    Raises:
        ManifestError: it breaks a rule.
        StateError: the load test's report is damaged.
    """
    version = str(certificate.predicate.get("version") or certificate.subject[:12])
    deployment = configured(use_case.name, certificate.subject, version)
    manifest = build(replace(deployment, scale=read_scale(home, use_case.name)))
    checks, path = validate(manifest, crd_path()), _manifest_path(home, use_case, certificate)
    write_atomically(path, to_yaml(manifest).encode())
    log.say("manifest: " + ", ".join(f"{check.name} {check.note}" for check in checks))
    return path


def _sign(
    home: Home, use_case: UseCase, certificate: Certificate, parity: Parity,
    probed: Sequence[Probed],
) -> Statement:  # fmt: skip
    path = release_path(home, use_case.name, certificate.subject)
    report = path.with_name(PARITY_REPORT)
    write_atomically(report, parity.document)
    figures = {what: parity.total(what) for what in ("rows", "values", "mismatches")}
    predicate = {
        "use_case": use_case.name,
        "subject": certificate.subject,
        "certificate": certificate.id,
        "released_at": datetime.now(timezone.utc).isoformat(),
        "parity": {"tick": parity.tick, **figures, "report": file_digest(report)},
        "probes": len(probed),
        "max_difference": max(p.difference for p in probed),
        "prediction_id": probed[0].prediction_id,
        "software": installed_version("airworthy"),
    }
    write_statement(path, signing_key(home), RELEASE_TYPE, certificate.files, predicate)
    written = release_statement(home, use_case.name, certificate.subject, own_trust(home))
    if written is None:
        raise PromotionError(f"{path} vanished while it was written; release again")
    return written


def _tell(
    home: Home, use_case: UseCase, certificate: Certificate, parity: dict[str, Any] | None
) -> None:
    """The ledger's entry, once a model: a renewed certificate is no new release."""
    told = any(
        e["kind"] == "release" and e["subject"] == certificate.subject for e in ledger.entries(home)
    )
    if told:
        return
    version = str(certificate.predicate.get("version") or "")
    facts = {
        "use_case": use_case.name, "version": version, "certificate": certificate.id,
        "parity": parity,
    }  # fmt: skip
    append(home, "release", certificate.subject, facts)


def _manifest_path(home: Home, use_case: UseCase, certificate: Certificate) -> Path:
    folder = release_path(home, use_case.name, certificate.subject).parent
    return folder / "inferenceservice.yaml"


def _table(probed: Sequence[Probed]) -> str:
    rows = "".join(
        f"<tr><td>{escape(p.request_id)}</td><td>{p.served:.6f}</td><td>{p.offline:.6f}</td>"
        f"<td>{p.difference:.1e}</td><td><code>{escape(p.prediction_id)}</code></td></tr>"
        for p in probed
    )
    head = "".join(f"<th>{h}</th>" for h in ("request", "served", "offline", "difference", "id"))
    return f"<table><tr>{head}</tr>{rows}</table>"
