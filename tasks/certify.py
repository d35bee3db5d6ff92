"""The certified model directory: all that was judged, its lineage, and the signature over it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from flytekit import task

from feature_repo.contract import UseCase
from feature_repo.errors import CertificateError
from feature_repo.home import Home, digest_of, folder_digests, new_folder
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, read_table
from serving import certificate, dsse, ledger, revocations
from serving.artifact import (
    CERTIFICATE,
    GATE,
    LINEAGE,
    content_of,
)
from tasks.circumstances import circumstances, data_facts, plain
from tasks.folders import open_folder
from tasks.ledger import append, own_trust
from tasks.registry import champion_directory
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.splits import split_facts
from tasks.steps import step
from tasks.types import Certified, Folder, SourceFile, State, Step, Verdict
from tasks.versions import interface, next_version, parse

VALID_FOR = timedelta(days=90)


class Certification(NamedTuple):
    """The certified model, and what the step did."""

    certified: Certified
    step: Step


@task(
    retries=2,
    timeout=600,
    requests=SMALL,
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def certify(
    state: State,
    use_case: str,
    execution: str,
    model: Folder,
    evaluation: Folder,
    card: Folder,
    trained: Folder,
    verdicts: list[Verdict],
    passed: bool,
    sources: list[SourceFile],
    tables: list[Table],
    quarantine: Table,
    views: list[Table],
    training_set: Table,
    split_dates: list[datetime],
    steps: list[Step],
) -> Certification:
    """Assemble the model directory and sign its certificate; a refused model gets one too,
    which says so. Not cached, and repeating it changes nothing."""
    with step("certify") as log:
        home, case = state.home(), get_use_case(use_case)
        lineage = {
            "format": "airworthy.lineage/v1",
            "use_case": use_case,
            "model": model.digest,
            "trained": trained.digest,
            "card": card.digest,
            "data": data_facts(sources, tables, read_table(quarantine)),
            "features": {
                "declaration": case.declaration,
                "interface": interface(case),
                "views": {view.name: view.digest for view in views},
            },
            "training": {
                "table": training_set.digest,
                "rows": training_set.rows,
                "split_dates": [date.isoformat() for date in split_dates],
                "splits": split_facts(read_table(training_set)),
            },
        }
        gate = {"passed": passed, "verdicts": [plain(v) for v in verdicts]}
        parts = [open_folder(folder) for folder in (model, evaluation, card)]
        directory = assemble(home, use_case, parts, {GATE: gate, LINEAGE: lineage})
        facts = {
            **{key: lineage[key] for key in ("use_case", "model", "data", "features", "training")},
            **circumstances(directory, execution, steps),
            "gate": gate,
        }
        certified = sign(home, case, directory, facts, datetime.now(timezone.utc))
        known = "known" if certified.already else "new"
        word = "certified" if passed else "REFUSED"
        log.say(f"{word} as {certified.version}, {known} certificate {certified.certificate}")
    return Certification(certified, log.record)


def assemble(
    home: Home, use_case: str, parts: list[Path], documents: Mapping[str, Mapping[str, Any]]
) -> Path:
    """Put the parts' files and the documents (as JSON) into ``models/<use_case>/<subject>``.

    Raises:
        CertificateError: the directory is there already, but its files are not these.
    """
    texts = {
        name: json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()
        for name, value in documents.items()
    }
    files = {name: part / name for part in parts for name in folder_digests(part)}
    digests = {name: d for part in parts for name, d in folder_digests(part).items()}
    digests |= {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    target = home.path("models", use_case, digest_of(digests))
    if not target.exists():
        with new_folder(target) as fresh:
            for name, source in files.items():
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, fresh / name)
            for name, text in texts.items():
                (fresh / name).write_bytes(text)
    if certificate.subject_files(target) != digests:
        raise CertificateError(
            f"{target} does not hold the files that were judged: something changed it; delete "
            "the folder and run again, which makes it anew"
        )
    return target


def sign(
    home: Home, use_case: UseCase, directory: Path, facts: dict[str, Any], now: datetime
) -> Certified:
    """Give the model its version and its certificate, and tell the ledger.

    A valid certificate over the same files stays as it is; an expired one is issued anew, and the
    model keeps its version.

    Raises:
        CertificateError: the certificate that is there, or the champion's, was altered or is not
            signed by a trusted key: nothing of it is signed onwards; or a certificate over the
            same files, or over the same content, is revoked.
    """
    with home.lock("certify"):
        trust, key = own_trust(home), dsse.signing_key(home)
        standing = _standing(directory, trust)
        ledger.check_never_used(home, directory.name)
        told = _told(home, directory.name)
        ids = {str(facts["certificate"]) for facts in told}
        _refuse_revoked(home, key, directory, ids | ({standing.id} if standing else set()), now)
        folder = champion_directory(home, use_case.name, facts["model"])
        champion = certificate.read(folder, trust) if folder else None
        version = (
            str(standing.predicate["version"])
            if standing
            else _told_version(home, told, trust)
            or _next(home, use_case.name, champion, facts, trust)
        )
        issued = certificate.issue(
            key,
            directory,
            {**facts, "predecessor": champion.subject if champion else "", "version": version},
            valid_for=VALID_FOR,
            now=now,
            renew=standing is not None and standing.expired(now),
        )
        _tell(home, issued)
    return Certified(
        subject=issued.subject,
        model_dir=str(directory),
        certificate=issued.id,
        version=str(issued.predicate["version"]),
        passed=bool(issued.predicate["gate"]["passed"]),
        already=standing is not None and standing.id == issued.id,
    )


def _standing(directory: Path, trust: dsse.Trust) -> certificate.Certificate | None:
    """The certificate that is there, once its signature and its subject were checked."""
    path = directory / CERTIFICATE
    if not path.exists():
        return None
    try:
        standing = certificate.read(directory, trust)
        if standing.subject != directory.name:
            raise CertificateError(f"{path}: it is the certificate of another model")
    except CertificateError as exc:
        raise CertificateError(
            f"{exc}; or delete the file and run again, which makes it anew with the version that "
            "the ledger tells"
        ) from exc
    return standing


def _told(home: Home, subject: str) -> list[dict[str, Any]]:
    """What the ledger tells of the certificates over these files."""
    return [
        e["facts"]
        for e in ledger.entries(home)
        if e["kind"] == "certificate" and e["subject"] == subject
    ]


def _refuse_revoked(
    home: Home, key: dsse.SigningKey, directory: Path, ids: set[str], now: datetime
) -> None:
    """Bring the list of revocations up to the ledger, and hold the model against it."""
    revoked = ledger.revocations(ledger.entries(home)).values()
    revocations.complete(home, key, revoked, now)
    content = content_of(certificate.subject_files(directory))
    try:
        revocations.check(revocations.listed(home, key), ids, content)
    except CertificateError as exc:
        raise CertificateError(f"this model is not certified: {exc}") from exc


def _told_version(home: Home, told: list[dict[str, Any]], trust: dsse.Trust) -> str | None:
    """The version of a model whose certificate is gone, by the verified ledger."""
    if not told:
        return None
    ledger.verify(home, trust)
    return str(told[-1]["version"])


def _next(
    home: Home,
    use_case: str,
    champion: certificate.Certificate | None,
    facts: dict[str, Any],
    trust: dsse.Trust,
) -> str:
    """The next free version, after the champion's, or else after the highest one."""
    certified = []
    for path in sorted(home.root.glob(f"models/{use_case}/*/{CERTIFICATE}")):
        with suppress(CertificateError):  # no version comes after one that cannot be believed
            certified.append(certificate.read(path.parent, trust).predicate)
    told = [
        e["facts"]["version"]
        for e in ledger.entries(home)
        if e["kind"] == "certificate" and e["facts"]["use_case"] == use_case
    ]
    previous = champion.predicate if champion else None
    if previous is None and certified:
        previous = max(certified, key=lambda predicate: parse(predicate["version"]))
    return next_version(previous, facts, {*told, *(p["version"] for p in certified)})


def _tell(home: Home, issued: certificate.Certificate) -> None:
    predicate = issued.predicate
    append(
        home,
        "certificate",
        issued.subject,
        {
            "use_case": predicate["use_case"],
            "certificate": issued.id,
            "content": content_of(issued.files),
            "version": predicate["version"],
            "passed": predicate["gate"]["passed"],
            "execution": predicate["execution"],
            "training_set": predicate["training"]["table"],
            "sources": predicate["data"]["sources"],
            "expires_at": predicate["expires_at"],
        },
    )
