"""The signed list of revoked certificates: ``trust/revocations.json`` of the home.

The ledger tells each revocation too, and the list is held against it: one that lacks a told
revocation is an older list that was put back. The list is there, empty, before the first
certificate is, so a missing one was deleted. A home without models and ledger, that of a serving
pod, may lack both; what is mounted there is heeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from feature_repo.errors import CertificateError, LedgerError
from feature_repo.home import Home
from serving import ledger
from serving.artifact import CERTIFICATE
from serving.dsse import SigningKey, Trust, trust
from serving.statements import read_statement, write_statement

REVOCATION_TYPE = "https://airworthy.dev/revocation/v1"


def revoked(home: Home, trust: Trust) -> frozenset[str]:
    """Ids of the revoked certificates.

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
    found = frozenset(entry["id"] for entry in _entries(home, trust))
    if lacking := sorted(_told(home, trust) - found):
        raise CertificateError(
            f"{path} lacks the revocation of {', '.join(lacking)}, which the ledger tells: an "
            "older list was put back, so no certificate is believed; restore the newest list, or "
            "run the pipeline, which writes it anew from the ledger"
        )
    return found


def listed(home: Home, key: SigningKey) -> frozenset[str]:
    """Ids on the list, whatever the ledger tells: for who holds the key and mends the list.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    return frozenset(entry["id"] for entry in _entries(home, _own_trust(home, key)))


def revoke(home: Home, key: SigningKey, certificate_id: str, reason: str, now: datetime) -> None:
    """Add a certificate to the home's signed list of revocations; once is enough.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    complete(home, key, {certificate_id: reason}, now)


def lift(home: Home, key: SigningKey, certificate_id: str) -> None:
    """Take a certificate off the list, once the ledger tells that its revocation is lifted.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    with home.lock("revocations"):
        entries = _entries(home, _own_trust(home, key))
        _write(home, key, [entry for entry in entries if entry["id"] != certificate_id])


def complete(home: Home, key: SigningKey, known: Mapping[str, str], now: datetime) -> None:
    """Write the list if it is missing or lacks one of the ``known`` revocations (id to reason).

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    with home.lock("revocations"):
        entries = _entries(home, _own_trust(home, key))
        there = {entry["id"] for entry in entries}
        added = [
            {"id": id_, "reason": reason, "at": now.isoformat()}
            for id_, reason in known.items()
            if id_ not in there
        ]
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
    entries = read_statement(path, REVOCATION_TYPE, trust).predicate.get("revoked")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
        raise CertificateError(f"{path}: it holds no list of revocations; restore the original")
    return entries


def _path(home: Home) -> Path:
    return home.root / "trust" / "revocations.json"
