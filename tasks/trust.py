"""Revocation: a certificate that must not be believed any more."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flytekit import task

from feature_repo.errors import CertificateError
from feature_repo.home import open_home
from serving import revocations
from serving.dsse import signing_key
from tasks import ledger
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=5),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def revoke_certificate(certificate_id: str, reason: str) -> str:
    """Put a certificate on the home's signed list of revocations, and into the ledger.

    A server refuses its model at the next start, and nobody can promote it.

    Raises:
        CertificateError: the ledger knows no such certificate, or no reason was given.
    """
    home = open_home()
    known = {
        entry["facts"]["certificate"]: entry["subject"]
        for entry in ledger.entries(home)
        if entry["kind"] == "certificate"
    }
    if certificate_id not in known or not reason.strip():
        raise CertificateError(
            f"{certificate_id!r} is not revoked: give a certificate of this home's ledger "
            f"({', '.join(known) or 'it has none'}) and a reason"
        )
    revocations.revoke(home, signing_key(home), certificate_id, reason, datetime.now(timezone.utc))
    facts = {"certificate": certificate_id, "reason": reason}
    ledger.append(home, "revocation", known[certificate_id], facts)
    return f"{certificate_id} is revoked: {reason}"
