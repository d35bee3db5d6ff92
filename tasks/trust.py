"""Revocation: a certificate that must not be believed any more, and the way back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flytekit import task

from feature_repo.errors import CertificateError
from feature_repo.home import Home, open_home
from serving import ledger, revocations
from serving.dsse import signing_key
from serving.ledger import Revocation
from tasks.ledger import append
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.services import living_models


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=5),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def revoke_certificate(certificate_id: str, reason: str) -> str:
    """Put a certificate on the home's signed list of revocations, and into the ledger.

    A server refuses its model at the next start, and nobody can promote it. So it is with every
    certificate over the same content, one that a later run would sign included.

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
    entry = known[certificate_id]
    content = str(entry["facts"].get("content", ""))
    revocation = Revocation(id=certificate_id, content=content, reason=reason)
    # The list first: killed in between, the certificate counts as revoked.
    revocations.complete(home, signing_key(home), [revocation], datetime.now(timezone.utc))
    _tell(home, entry["subject"], revocation, revoked=True)
    return (
        f"{certificate_id} is revoked: {reason}\nNo server starts with its model any more. One "
        "that runs is not stopped: it goes on answering with it until its next start; restart it."
        + _warning(home, entry["facts"]["use_case"], revocation)
    )


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
    revoked = {*told, *(revocation.id for revocation in revocations.listed(home, key))}
    if certificate_id not in revoked & known.keys() or not reason.strip():
        raise CertificateError(
            f"{certificate_id!r} is not reinstated: give a revoked certificate "
            f"({', '.join(sorted(revoked)) or 'there is none'}) and a reason"
        )
    entry = known[certificate_id]
    content = str(entry["facts"].get("content", ""))
    # The ledger first: killed in between, the certificate still counts as revoked.
    lifted = Revocation(id=certificate_id, content=content, reason=reason)
    _tell(home, entry["subject"], lifted, revoked=False)
    revocations.lift(home, key, certificate_id)
    return f"{certificate_id} is no longer revoked: {reason}"


def _warning(home: Home, use_case: str, revocation: Revocation) -> str:
    """What it means that the revoked model is the champion; nothing where it is not."""
    told = ledger.entries(home)
    champions = [
        entry["facts"]
        for entry in told
        if entry["kind"] == "promotion" and entry["facts"]["use_case"] == use_case
    ]
    id_ = str(champions[-1]["certificate"]) if champions else ""
    if not revocations.against([revocation], {id_}, ledger.contents(told).get(id_, "")):
        return ""
    others = list(living_models(home, use_case).values())
    way_out = (
        f"promote another version: pyflyte run workflows/registry.py promote_version --model "
        f"{use_case} --version {others[-1]} (there is {', '.join(others)})"
        if others
        else "train another model, since no other version is left to promote"
    )
    return (
        f"\nWARNING: IT IS THE CHAMPION, {use_case} {champions[-1]['version']}, and stays so: no "
        f"server of {use_case} starts until there is another one; {way_out}"
    )


def _certified(home: Home) -> dict[str, ledger.Entry]:
    """The ledger's certificates, by id."""
    return {
        entry["facts"]["certificate"]: entry
        for entry in ledger.entries(home)
        if entry["kind"] == "certificate"
    }


def _tell(home: Home, subject: str, said: Revocation, *, revoked: bool) -> None:
    facts = {"certificate": said.id, "content": said.content, "reason": said.reason}
    append(home, "revocation", subject, {**facts, "revoked": revoked}, recurring=True)
