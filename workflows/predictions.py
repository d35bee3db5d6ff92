"""What came of answers that were given."""

from datetime import datetime, timezone

from flytekit import workflow

from tasks.outcomes import join_outcomes, salvage_log


@workflow
def outcomes(
    use_case: str,
    since: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc),
    until: datetime | None = None,
) -> str:
    """Join recorded answers with the labels that have become available; returns the table's file.

    Args:
        use_case: for example flights.
        since: answers given from this instant on (UTC).
        until: labels that were available at this instant (UTC); none: now.
    """
    joined = join_outcomes(use_case=use_case, since=since, until=until)
    return joined.table


@workflow
def salvage(use_case: str) -> str:
    """Keep what is whole of a damaged prediction log, and put the damaged files aside.

    Args:
        use_case: for example flights.
    """
    return salvage_log(use_case=use_case)
