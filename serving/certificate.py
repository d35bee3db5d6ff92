"""The certificate of airworthiness: issued over a model directory, checked before it is loaded.

``certificate.json`` lies in the model directory and names every other file in it by digest.
Nothing else may be in the directory. Revocations and releases are statements of their own,
outside of it: ``trust/revocations.json`` and ``releases/<use case>/`` of the home.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.errors import CertificateError, StateError
from feature_repo.home import Home, digest_of, folder_digests
from serving import revocations
from serving.artifact import CERTIFICATE, MODEL_JSON, content_of, read_model
from serving.dsse import SigningKey, Trust, trust_in
from serving.ledger import Revocation
from serving.statements import Statement, instant, read_statement, write_statement

FORMAT = "airworthy.certificate/v1"
CERTIFICATE_TYPE = "https://airworthy.dev/certificate/v1"
RELEASE_TYPE = "https://airworthy.dev/release/v1"
PARITY_REPORT = "parity.json"  # beside the release statement, which names its digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A certificate as read from a model directory; ``files`` are its subjects' digests."""

    id: str
    subject: str
    predicate: dict[str, Any]
    path: Path
    files: dict[str, str]

    @property
    def expires_at(self) -> datetime:
        """Aware instant after which no new roll-out may begin."""
        return instant(self.predicate.get("expires_at"))

    @property
    def development(self) -> bool:
        """Whether a development key signed it."""
        signer = self.predicate.get("signer")
        return not isinstance(signer, dict) or signer.get("development") is not False

    def expired(self, now: datetime) -> bool:
        """Whether it is past its date at ``now`` (aware)."""
        return now >= self.expires_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """A model directory that may be loaded; ``expired`` only for one released before its date."""

    certificate: Certificate
    expired: bool


def issue(
    key: SigningKey,
    folder: Path,
    predicate: Mapping[str, Any],
    valid_for: timedelta,
    now: datetime,
    *,
    renew: bool = False,
) -> Certificate:
    """Sign a certificate over all files in ``folder`` and write it there, atomically.

    A certificate that is there already, signed by the same key over the same files, is
    returned unchanged, unless ``renew`` asks to replace it. ``predicate`` lacks format, subject,
    dates and signer: they are added.
    """
    path, files = folder / CERTIFICATE, subject_files(folder)
    if path.exists() and not renew:
        try:
            standing = _certificate(read_statement(path, CERTIFICATE_TYPE, trust_in(key)), path)
        except CertificateError:
            standing = None
        if standing is not None and standing.files == files:
            return standing
    full = {
        **predicate,
        "format": FORMAT,
        "subject": digest_of(files),
        "issued_at": now.isoformat(),
        "expires_at": (now + valid_for).isoformat(),
    }
    # A killed process must leave no foreign file in the model directory: it would be refused.
    write_statement(path, key, CERTIFICATE_TYPE, files, full, aside=folder.parent)
    return read(folder)


def read(folder: Path, trust: Trust | None = None) -> Certificate:
    """The certificate in ``folder``; the files are not checked, its signature only with ``trust``.

    Raises:
        CertificateError: there is none, it is of an unknown form, or not signed by a trusted key.
    """
    path = folder / CERTIFICATE
    return _certificate(_read(path, trust), path)


def verify(
    folder: Path, trust: Trust, *, revoked: Iterable[Revocation], released: bool, now: datetime
) -> Certificate:
    """Check that the model in ``folder`` may fly: signature, files, gate, revocation, date.

    ``released`` says that a signed release statement from before the expiry exists; only then
    does an expired certificate pass (its ``expired`` tells).

    Raises:
        CertificateError: it may not; the message names the file or the rule, and what to do.
    """
    path = folder / CERTIFICATE
    certificate = _certificate(_read(path, trust), path)
    _check_files(certificate, folder)
    _check_model(certificate, folder)
    gate = certificate.predicate.get("gate")
    if not isinstance(gate, dict) or gate.get("passed") is not True:
        raise CertificateError(
            f"{path}: the gate refused this model ({_failed(gate)}); serve the champion, or "
            "train a model that passes"
        )
    try:
        revocations.check(revoked, {certificate.id}, content_of(certificate.files))
    except CertificateError as exc:
        raise CertificateError(f"{path}: {exc}") from exc
    if certificate.expired(now) and not released:
        raise CertificateError(
            f"{path}: certificate {certificate.id} expired at {certificate.expires_at.isoformat()} "
            "and the model was never released before that; train and certify it again"
        )
    return certificate


def clear(home: Home, folder: Path, trust: Trust, now: datetime) -> Cleared:
    """``verify`` with the home's revocations and release statements.

    Raises:
        CertificateError: the model may not be loaded.
    """
    path = folder / CERTIFICATE
    with _readable(folder):
        certificate = _certificate(_read(path, trust), path)  # signed: its words become a path
    use_case = str(certificate.predicate.get("use_case"))
    statement = release_statement(home, use_case, certificate.subject, trust)
    released = statement is not None and (
        instant(statement.predicate.get("released_at")) < certificate.expires_at
    )
    revoked = revocations.revoked(home, trust)
    certificate = verify(folder, trust, revoked=revoked, released=released, now=now)
    return Cleared(certificate=certificate, expired=certificate.expired(now))


def release_path(home: Home, use_case: str, subject: str) -> Path:
    """Where the signed release statement of a model lies."""
    return home.root / "releases" / use_case / subject / "release.json"


def release_statement(home: Home, use_case: str, subject: str, trust: Trust) -> Statement | None:
    """The verified release statement of a model, or None when it was never released.

    Raises:
        CertificateError: it is there, but changed, unsigned or of another model.
    """
    path = release_path(home, use_case, subject)
    if not path.exists():
        return None
    statement = read_statement(path, RELEASE_TYPE, trust)
    if statement.predicate.get("subject") != subject:
        raise CertificateError(
            f"{path}: it states the release of another model; restore the original, or delete "
            "it and release again"
        )
    return statement


def subject_files(folder: Path) -> dict[str, str]:
    """Digests of all files of a model directory but the certificate.

    Raises:
        CertificateError: the folder is missing, or a link is in it (its target could change).
    """
    with _readable(folder):
        return _subject_files(folder)


def _subject_files(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise CertificateError(f"the model directory {folder} does not exist; name another")
    links = [p for p in folder.rglob("*") if p.is_symlink()]
    if links:
        raise CertificateError(f"{links[0]} is a link; a model directory holds files only: copy it")
    return {name: d for name, d in folder_digests(folder).items() if name != CERTIFICATE}


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """A file that cannot be read cannot be believed."""
    try:
        yield
    except OSError as exc:
        raise CertificateError(
            f"{exc.filename or folder} cannot be read ({exc.strerror}): what is not read cannot "
            "be verified; let this user read the model directory and the home"
        ) from exc


def _read(path: Path, trust: Trust | None) -> Statement:
    if not path.exists():
        raise CertificateError(
            f"{path} does not exist: a model without a certificate is not loaded; certify it by "
            "the training workflow, or name the directory of a certified one"
        )
    return read_statement(path, CERTIFICATE_TYPE, trust)


def _certificate(statement: Statement, path: Path) -> Certificate:
    predicate = statement.predicate
    if predicate.get("format") != FORMAT:
        raise CertificateError(
            f"{path}: certificate format {predicate.get('format')!r} is not known here (this "
            f"version reads {FORMAT!r}); certify again, or use the version that issued it"
        )
    subject = digest_of(statement.subject)
    if predicate.get("subject") != subject:
        raise CertificateError(
            f"{path}: its subject {predicate.get('subject')!r} is not that of the files it lists; "
            "certify the model again"
        )
    return Certificate(
        id=f"cert-{statement.digest[:16]}",
        subject=subject,
        predicate=predicate,
        path=path,
        files=statement.subject,
    )


def _check_files(certificate: Certificate, folder: Path) -> None:
    found, listed = subject_files(folder), certificate.files
    changed = sorted(n for n in found.keys() & listed.keys() if found[n] != listed[n])
    missing, added = sorted(listed.keys() - found.keys()), sorted(found.keys() - listed.keys())
    said = [
        f"{what}: {', '.join(names)}"
        for what, names in (("changed", changed), ("missing", missing), ("not certified", added))
        if names
    ]
    if said:
        raise CertificateError(
            f"{folder} is not what certificate {certificate.id} was issued for ({'; '.join(said)})"
            "; restore these files from where the model was stored, remove what is not "
            "certified, or certify the model again"
        )


def _check_model(certificate: Certificate, folder: Path) -> None:
    try:
        model = read_model(folder)
    except StateError as exc:
        raise CertificateError(str(exc)) from exc
    predicate, features = certificate.predicate, certificate.predicate.get("features")
    declaration = features.get("declaration") if isinstance(features, dict) else None
    if (predicate.get("use_case"), declaration) != (model.use_case, model.declaration):
        raise CertificateError(
            f"{certificate.path}: it certifies {predicate.get('use_case')!r} with feature "
            f"declaration {str(declaration)[:12]}, but {MODEL_JSON} says {model.use_case!r} with "
            f"{model.declaration[:12]}; certify the model again"
        )


def _failed(gate: Any) -> str:
    verdicts = gate.get("verdicts") if isinstance(gate, dict) else None
    if not isinstance(verdicts, list):
        return "it has no verdict"
    failed = [str(v.get("rule")) for v in verdicts if isinstance(v, dict) and not v.get("passed")]
    return f"failed: {', '.join(failed)}" if failed else "not passed"
