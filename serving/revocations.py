"""The signed list of revoked certificates: ``trust/revocations.json`` of the home.

The list is there, empty, before the first certificate is, so a missing one was deleted. A home
without models, that of a serving pod, may lack it; one that is mounted there is heeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from serving.artifact import CERTIFICATE
from serving.dsse import SigningKey, Trust, trust
from serving.statements import read_statement, write_statement

REVOCATION_TYPE = "https://airworthy.dev/revocation/v1"


def revoked(home: Home, trust: Trust) -> frozenset[str]:
    """Ids of the revoked certificates.

    Raises:
        CertificateError: the list was deleted, is unsigned or changed: nothing may be loaded.
    """
    path = _path(home)
    if not path.exists() and any(home.root.glob(f"models/*/*/{CERTIFICATE}")):
        raise CertificateError(
            f"{path} is missing: which certificates are revoked is not known, so none is "
            "believed; restore the list, or run the pipeline, which writes it anew from the ledger"
        )
    return frozenset(entry["id"] for entry in _entries(home, trust))


def revoke(home: Home, key: SigningKey, certificate_id: str, reason: str, now: datetime) -> None:
    """Add a certificate to the home's signed list of revocations; once is enough.

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    complete(home, key, {certificate_id: reason}, now)


def complete(home: Home, key: SigningKey, known: Mapping[str, str], now: datetime) -> None:
    """Write the list if it is missing or lacks one of the ``known`` revocations (id to reason).

    Raises:
        CertificateError: the list that is there is not signed by a trusted key.
    """
    with home.lock("revocations"):
        entries = _entries(home, trust(home, allow_development=key.development).with_key(key))
        listed = {entry["id"] for entry in entries}
        added = [
            {"id": id_, "reason": reason, "at": now.isoformat()}
            for id_, reason in known.items()
            if id_ not in listed
        ]
        path = _path(home)
        if added or not path.exists():
            write_statement(path, key, REVOCATION_TYPE, {}, {"revoked": [*entries, *added]})


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
