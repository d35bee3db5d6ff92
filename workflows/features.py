"""What a person asks about features: why a value is what it is, how well it was served, and what
each dataset holds."""

from datetime import datetime, timezone

from flytekit import workflow

from tasks.dataset_cards import write_cards
from tasks.explain import explain_features
from tasks.skew import measure_skew


@workflow
def explain(use_case: str, entities: str, at: datetime, newest: int = 5) -> str:
    """Print each feature of an entity as asked at an instant, the events behind it and when each
    became known, and what had happened but was not yet known.

    Args:
        use_case: for example flights.
        entities: any of the entities' keys, as in "tailnum=N14228,origin=EWR,carrier=UA"; views
            whose keys are all given are explained (flytekit takes no input named entity).
        at: when the question is asked (UTC); it reads the tick before.
        newest: how many events of each feature are printed; all are counted.
    """
    return explain_features(use_case=use_case, keys=entities, at=at, newest=newest)


@workflow
def skew(use_case: str, since: datetime = datetime(1970, 1, 1, tzinfo=timezone.utc)) -> str:
    """Recompute offline what served answers were given from; returns the report's file.

    Args:
        use_case: for example flights.
        since: answers given from this instant on (UTC).
    """
    measured = measure_skew(use_case=use_case, since=since)
    return measured.report


@workflow
def cards(use_case: str) -> str:
    """Write a page for each raw table and feature view; returns the file that lists them.

    Args:
        use_case: for example flights.
    """
    written = write_cards(use_case=use_case)
    return written.page
