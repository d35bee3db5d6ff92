"""A person's decisions about models: promote a version, revoke a certificate, reinstate it."""

from flytekit import workflow

from tasks.promotion import promote
from tasks.services import retire_model
from tasks.state import open_state
from tasks.trust import reinstate_certificate, revoke_certificate


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
    """Revoke a certificate: servers refuse its model at their next start; those that run go on.

    Args:
        certificate_id: as in the summary, an answer or the audit.
        reason: kept in the signed list and in the ledger.
    """
    return revoke_certificate(certificate_id=certificate_id, reason=reason)


@workflow
def retire_version(model: str, version: str, reason: str) -> str:
    """Retire a released model: no rollback goes back to it, and its features may be removed.

    Args:
        model: a use case, for example flights.
        version: its semantic version; never the champion's.
        reason: kept in the ledger.
    """
    return retire_model(use_case=model, version=version, reason=reason)


@workflow
def reinstate(certificate_id: str, reason: str) -> str:
    """Lift a revocation whose reason is gone: the model may be served and promoted again.

    Args:
        certificate_id: as in the summary, an answer or the audit.
        reason: kept in the ledger, beside the revocation.
    """
    return reinstate_certificate(certificate_id=certificate_id, reason=reason)
