"""The signed list of revoked certificates: ``trust/revocations.json`` of the home.

The ledger tells each revocation too, and the list is held against it: one that lacks a told
revocation is an older list that was put back. The list is there, empty, before the first
certificate is, so a missing one was deleted. A home without models and ledger, that of a serving
pod, may lack both; what is mounted there is heeded.

A revocation names the model's content too. A certificate is over figures and texts that another
run, or another signing key, writes anew: the same model would fly again under another id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from feature_repo.errors import CertificateError, LedgerError
from feature_repo.home import Home
from serving import ledger
from serving.artifact import CERTIFICATE
from serving.dsse import SigningKey, Trust, trust
from serving.ledger import Revocation
from serving.statements import read_statement, write_statement

REVOCATION_TYPE = "https://airworthy.dev/revocation/v2"
FIRST_TYPE = "https://airworthy.dev/revocation/v1"  # names certificates only; still read


def against(revoked: Iterable[Revocation], ids: Collection[str], content: str) -> Revocation | None:
    """What speaks against a model with these certificates: one of them, or another certificate
    over the same content, is revoked."""
    return next((r for r in revoked if r.id in ids or (r.content and r.content == content)), None)


def check(revoked: Iterable[Revocation], ids: Collection[str], content: str) -> None:
    """Refuse a model that a revocation speaks against.

    Raises:
        CertificateError: names the revoked certificate, why it is, and the way out.
    """
    if found := against(revoked, ids, content):
        same = "" if found.id in ids else ", and its model is this one (graph and preprocessing)"
        raise CertificateError(
            f"certificate {found.id} is revoked ({found.reason}){same}; serve or train another "
            "model, or lift the revocation when its reason is gone (pyflyte run "
            f"workflows/registry.py reinstate --certificate_id {found.id} --reason ...)"
        )


def revoked(home: Home, trust: Trust) -> tuple[Revocation, ...]:
    """The revocations that stand.

    Raises:
        CertificateError: the list or the ledger was deleted, changed or put back, or is unsigned:
            nothing may be loaded.
    """
    path = _path(home)
    if not path.exists() and any(home.root.glob(f"models/*/*/{CERTIFICATE}")):
        raise CertificateError(
            f"{path} is missing: which certificates are revoked is not known, so none is "
            "believed; restore the list, or run the pipeline, which writes it anew from the ledger"
        )
    found = _entries(home, trust)
    if lacking := sorted(_told(home, trust) - {entry["id"] for entry in found}):
        raise CertificateError(
            f"{path} lacks the revocation of {', '.join(lacking)}, which the ledger tells: an "
            "older list was put back, so no certificate is believed; restore the newest list, or "
            "run the pipeline, which writes it anew from the ledger"
        )
    return _revocations(found)


def listed(home: Home, key: SigningKey) -> tuple[Revocation, ...]:
    """What is on the list, whatever the ledger tells: for who holds the key and mends the list.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    return _revocations(_entries(home, _own_trust(home, key)))


def lift(home: Home, key: SigningKey, certificate_id: str) -> None:
    """Take a certificate off the list, once the ledger tells that its revocation is lifted.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    with home.lock("revocations"):
        entries = _entries(home, _own_trust(home, key))
        _write(home, key, [entry for entry in entries if entry["id"] != certificate_id])


def complete(home: Home, key: SigningKey, known: Iterable[Revocation], now: datetime) -> None:
    """Write the list if it is missing or lacks one of the ``known`` revocations.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    with home.lock("revocations"):
        entries = _entries(home, _own_trust(home, key))
        there = {entry["id"] for entry in entries}
        added = [{**asdict(r), "at": now.isoformat()} for r in known if r.id not in there]
        if added or not _path(home).exists():
            _write(home, key, [*entries, *added])


def _told(home: Home, trust: Trust) -> frozenset[str]:
    try:
        return frozenset(ledger.revocations(ledger.verify(home, trust)))
    except LedgerError as exc:
        raise CertificateError(
            f"which certificates are revoked is not known, so none is believed: {exc}"
        ) from exc


def _own_trust(home: Home, key: SigningKey) -> Trust:
    return trust(home, allow_development=key.development).with_key(key)


def _write(home: Home, key: SigningKey, entries: list[dict[str, str]]) -> None:
    write_statement(_path(home), key, REVOCATION_TYPE, {}, {"revoked": entries})


def _entries(home: Home, trust: Trust) -> list[dict[str, str]]:
    path = _path(home)
    if not path.exists():
        return []
    try:
        statement = read_statement(path, REVOCATION_TYPE, trust)
    except CertificateError:
        statement = read_statement(path, FIRST_TYPE, trust)
    entries = statement.predicate.get("revoked")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
        raise CertificateError(f"{path}: it holds no list of revocations; restore the original")
    return entries


def _revocations(entries: list[dict[str, str]]) -> tuple[Revocation, ...]:
    return tuple(
        Revocation(id=e["id"], content=e.get("content", ""), reason=e.get("reason", ""))
        for e in entries
    )


def _path(home: Home) -> Path:
    return home.root / "trust" / "revocations.json"
