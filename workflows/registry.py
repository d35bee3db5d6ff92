"""A person's decisions about models: promote a version, revoke a certificate."""

from flytekit import workflow

from tasks.registry import promote
from tasks.state import open_state
from tasks.trust import revoke_certificate


@workflow
def promote_version(model: str, version: str) -> bool:
    """Make a registered version the champion; a refused, revoked or expired one is refused.

    Args:
        model: a use case, for example flights.
        version: its semantic version, as in the summary and the audit.
    """
    opened = open_state(use_case=model)
    promoted = promote(state=opened.state, use_case=model, version=version)
    return promoted.champion


@workflow
def revoke(certificate_id: str, reason: str) -> str:
    """Revoke a certificate: servers refuse its model at their next start.

    Args:
        certificate_id: as in the summary, an answer or the audit.
        reason: kept in the signed list and in the ledger.
    """
    return revoke_certificate(certificate_id=certificate_id, reason=reason)
