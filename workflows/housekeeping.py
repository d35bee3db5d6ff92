"""Keeps a home small."""

from flytekit import workflow

from tasks.housekeeping import clean_home


@workflow
def clean(grace_minutes: int = 60, preview: bool = False) -> str:
    """Remove what no champion, rollback target or ledger entry needs, and say what and how much.

    Args:
        grace_minutes: what was written more recently stays, since a run may be under way.
        preview: say only what would be removed.
    """
    return clean_home(grace_minutes=grace_minutes, preview=preview)
