"""Revocation: a certificate that must not be believed any more, and the way back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flytekit import task

from feature_repo.errors import CertificateError
from feature_repo.home import Home, open_home
from serving import ledger, revocations
from serving.dsse import signing_key
from tasks.ledger import append
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
    known = _certified(home)
    if certificate_id not in known or not reason.strip():
        raise CertificateError(
            f"{certificate_id!r} is not revoked: give a certificate of this home's ledger "
            f"({', '.join(known) or 'it has none'}) and a reason"
        )
    # The list first: killed in between, the certificate counts as revoked.
    revocations.revoke(home, signing_key(home), certificate_id, reason, datetime.now(timezone.utc))
    _tell(home, known[certificate_id], certificate_id, reason, revoked=True)
    return f"{certificate_id} is revoked: {reason}"


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=5),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def reinstate_certificate(certificate_id: str, reason: str) -> str:
    """Lift a revocation: its end and the reason go into the ledger, and the certificate off the
    list. The model may be served, released and promoted as before.

    Raises:
        CertificateError: the certificate is not revoked, or no reason was given.
    """
    home = open_home()
    known, key = _certified(home), signing_key(home)
    told = ledger.revocations(ledger.entries(home))
    listed = revocations.listed(home, key)
    if certificate_id not in {*told, *listed} & known.keys() or not reason.strip():
        raise CertificateError(
            f"{certificate_id!r} is not reinstated: give a revoked certificate "
            f"({', '.join(sorted({*told, *listed})) or 'there is none'}) and a reason"
        )
    # The ledger first: killed in between, the certificate still counts as revoked.
    _tell(home, known[certificate_id], certificate_id, reason, revoked=False)
    revocations.lift(home, key, certificate_id)
    return f"{certificate_id} is no longer revoked: {reason}"


def _certified(home: Home) -> dict[str, str]:
    """Subjects of the ledger's certificates, by id."""
    return {
        entry["facts"]["certificate"]: entry["subject"]
        for entry in ledger.entries(home)
        if entry["kind"] == "certificate"
    }


def _tell(home: Home, subject: str, certificate_id: str, reason: str, *, revoked: bool) -> None:
    facts = {"certificate": certificate_id, "reason": reason, "revoked": revoked}
    append(home, "revocation", subject, facts, recurring=True)
