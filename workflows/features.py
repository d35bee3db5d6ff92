"""What a person asks about features: why a value is what it is, how well it was served, and what
each dataset holds."""

from datetime import datetime, timezone

from flytekit import workflow

from tasks.dataset_cards import write_cards
from tasks.explain import explain_features
from tasks.feature_versions import (
    forget_versions,
    list_versions,
    rebuild_for_model,
    rebuild_training_set,
)
from tasks.services import remove_service
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


@workflow
def versions(use_case: str) -> str:
    """Print the kept versions of the feature tables: when each was made, up to which tick, its
    rows, and the megabytes that it added.

    Args:
        use_case: for example flights.
    """
    return list_versions(use_case=use_case)


@workflow
def prune(use_case: str) -> str:
    """Forget versions: of those that are older than a day one a day is kept, up to the use case's
    retention, and always the newest and what models were trained on; and the stream's messages that
    are older than that and that the source has taken over. Every nightly run does it.

    Args:
        use_case: for example flights.
    """
    return forget_versions(use_case=use_case)


@workflow
def training_set(
    use_case: str,
    created: datetime,
    service: str = "",
    until: datetime | None = None,
    training_start: datetime = datetime(2013, 1, 1, tzinfo=timezone.utc),
    validation_start: datetime = datetime(2013, 10, 1, tzinfo=timezone.utc),
    test_start: datetime = datetime(2013, 11, 1, tzinfo=timezone.utc),
    test_end: datetime = datetime(2014, 1, 1, tzinfo=timezone.utc),
) -> str:
    """Rebuild a training set as it was: of the version that was the newest at an instant; returns
    the place of its Parquet files.

    Args:
        use_case: for example flights.
        created: wall-clock instant (UTC); what was recorded later is not seen.
        service: that of another declaration, as in the folder names under offline/ of the home;
            empty: that of this program.
        until: what happened or became known later (UTC) is not seen; none: all of the version.
        training_start: first instant of the training part.
        validation_start: its end, and the start of the validation part.
        test_start: end of the validation part, and the start of the test part.
        test_end: end of the test part.
    """
    rebuilt = rebuild_training_set(
        use_case=use_case,
        created=created,
        service=service,
        until=until,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
    )
    return rebuilt.uri


@workflow
def training_set_of(use_case: str, version: str) -> str:
    """Rebuild the training set that a model was made from, whatever is declared now; refused where
    it is not the one that its certificate names. Returns the place of its Parquet files.

    Args:
        use_case: for example flights.
        version: for example 1.0.0.
    """
    rebuilt = rebuild_for_model(use_case=use_case, version=version)
    return rebuilt.uri


@workflow
def remove(use_case: str, service: str) -> str:
    """Remove the features of an older declaration; refused, with their names, while models need it.

    Args:
        use_case: for example flights.
        service: as in the folder names under offline/ of the home.
    """
    return remove_service(use_case=use_case, service=service)
