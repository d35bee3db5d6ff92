"""Keeps a home small."""

from flytekit import workflow

from tasks.housekeeping import clean_home


@workflow
def clean(grace_minutes: int = 60) -> str:
    """Remove what no champion, rollback target or ledger entry needs, and say what and how much;
    every nightly run does it.

    Args:
        grace_minutes: what was written more recently stays, since a run may be under way; what
            one may read from the cache goes with the first clean-up so long after this one.
    """
    return clean_home(grace_minutes=grace_minutes, remove=True)


# A workflow of its own: flytekit's command line warns of every boolean input.
@workflow
def preview(grace_minutes: int = 60) -> str:
    """Say what a clean-up would remove.

    Args:
        grace_minutes: as for the clean-up.
    """
    return clean_home(grace_minutes=grace_minutes, remove=False)
