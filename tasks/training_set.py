"""Raw tables to features to a training set, joined as of each request's tick."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flytekit import task

from feature_repo.confirm import FeastCheck
from feature_repo.errors import SkewError, TrainingError
from feature_repo.offline import ENGINE, LIBRARIES
from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from feature_repo.ticks import tick_of
from tasks.cache import code_cache
from tasks.resources import DATA
from tasks.services import living_services
from tasks.splits import PARTS, check_dates, check_parts, split_by_time
from tasks.steps import StepLog, step
from tasks.types import SplitRows, State, Step

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.home import Home

FEATURE_CODE = (
    *ENGINE,
    "feature_repo.events",
    "feature_repo.offline",
    "feature_repo.training_sql",
)


class Features(NamedTuple):
    """One table a feature view, and what the step did."""

    views: list[Table]
    step: Step


class TrainingSet(NamedTuple):
    """The joined rows with their split, how many rows each split has, what the step did."""

    training_set: Table
    rows: SplitRows
    step: Step


class Confirmed(NamedTuple):
    """What Feast answered for a sample of the same rows."""

    check: FeastCheck
    step: Step


@task(
    cache=code_cache(*FEATURE_CODE, libraries=LIBRARIES),
    requests=DATA,
    retries=2,
    timeout=timedelta(hours=4),
)
def build_features(
    state: State,
    use_case: str,
    declaration: str,
    tables: list[Table],
    quarantine: Table,
    rows_read: int,
    as_of: datetime | None = None,
) -> Features:
    """Bring every feature view of the use case to its raw tables, as a version of the offline
    store: what the version before has already is not computed again.

    A further version takes in what was streamed, so that the newest one is what is served; the
    tables that this task gives are the source's alone, as its inputs are.

    Args:
        state: home of all state.
        use_case: name in ``feature_repo.registry``.
        declaration: digest of the use case's declaration and code.
        tables: clean raw tables.
        quarantine: rows that broke their contract; kept with the version.
        rows_read: rows in the raw files; kept with the version.
        as_of: compute the ticks up to the one that a request made at this instant reads; without
            it, as far as the data reach.
    """
    from feature_repo.offline import Origin, update

    declared = get_use_case(use_case)
    with step("features") as s:
        home, until = state.home(), last_read(declared, as_of)
        origin = Origin(quarantine=quarantine, rows_read=rows_read)
        version = update(home, declared, tables, origin, until=until)
        views = version.built.views
        take_in_streamed(home, declared, s)
        # Models of older declarations are served too; what they need is no output of this task.
        for older in living_services(home, declared):
            until = last_read(older, as_of)
            kept = update(home, older, tables, origin, until=until)
            s.say(f"{older.service}, which an older model needs: {kept.summary}")
            take_in_streamed(home, older, s)
        s.say(f"{len(declared.features)} features in {len(views)} views, {version.summary}")
    return Features(views, s.record)


@task(
    cache=code_cache("tasks.splits", "feature_repo.dialect", libraries=LIBRARIES),
    requests=DATA,
    retries=2,
    timeout=timedelta(minutes=30),
)
def check_split(
    use_case: str,
    declaration: str,
    tables: list[Table],
    training_start: datetime,
    validation_start: datetime,
    test_start: datetime,
    test_end: datetime,
) -> bool:
    """Whether the raw tables have labelled rows between all split dates: so that a run that must
    fail for want of them leaves no version of the features behind.

    Raises:
        TrainingError: dates out of order, or a part without rows.
    """
    dates = (training_start, validation_start, test_start, test_end)
    check_parts(get_use_case(use_case), tables, dates)
    return True


def take_in_streamed(home: Home, use_case: UseCase, log: StepLog) -> None:
    """Fold the stream's messages into the version that was just made from the source."""
    from feature_repo.stream import take_in

    version, refused = take_in(home, use_case)
    if version.offset:
        log.say(f"{use_case.service}: what was streamed is in version {version.number}")
    for reason in refused:
        log.say(f"{use_case.service}: a message is set aside: {reason}")


def last_read(use_case: UseCase, as_of: datetime | None) -> datetime | None:
    """The tick that a request made at ``as_of`` (aware) reads. A later one would hold facts that
    are still on their way, and the server refuses to answer from it."""
    return as_of and tick_of(as_of, tick=use_case.tick, lag=use_case.lag)


@task(
    cache=code_cache(
        *FEATURE_CODE,
        "feature_repo.history",
        "tasks.splits",
        "tasks.training_set",
        libraries=LIBRARIES,
    ),
    requests=DATA,
    retries=2,
    timeout=timedelta(hours=1),
)
def build_training_set(
    state: State,
    use_case: str,
    declaration: str,
    tables: list[Table],
    views: list[Table],
    training_start: datetime,
    validation_start: datetime,
    test_start: datetime,
    test_end: datetime,
) -> TrainingSet:
    """Join every request with its features as of its tick, and split by time.

    A row is in a part when its prediction is made at or after the part's start, its event
    comes before the part's end, and its label is available by that end.

    Raises:
        TrainingError: dates out of order, or a part without rows.
    """
    from feature_repo.engine import build_training_set as join
    from feature_repo.history import computed_until

    dates = (training_start, validation_start, test_start, test_end)
    check_dates(use_case, dates)
    with step("training set") as s:
        counts: Counter[str] = Counter()
        split = partial(split_by_time, dates, counts)
        home, declared = state.home(), get_use_case(use_case)
        until = computed_until(home, declared, tables, views)  # it is theirs, whenever asked
        table = join(home, declared, tables, views, split, until)
        rows = SplitRows(
            training=counts["training"],
            validation=counts["validation"],
            test=counts["test"],
            unused=counts[""],
        )
        for part in PARTS:
            if not getattr(rows, part):
                raise TrainingError(
                    f"{use_case}: no labelled row between the split dates of {part!r}; the "
                    "features may not reach that far: give other dates"
                )
        s.say(
            f"{table.rows:,} rows as of their ticks: {rows.training:,} training, "
            f"{rows.validation:,} validation, {rows.test:,} test, {rows.unused:,} in no part"
        )
    return TrainingSet(table, rows, s.record)


@task(
    cache=code_cache(
        "feature_repo.confirm", "feature_repo.repo", libraries=("feast", "ibis-framework", "duckdb")
    ),
    requests=DATA,
    retries=2,
    timeout=timedelta(minutes=30),
)
def confirm_with_feast(
    state: State, use_case: str, declaration: str, views: list[Table], training_set: Table
) -> Confirmed:
    """Let Feast's point-in-time join answer a sample of the same rows.

    Raises:
        SkewError: Feast and our join differ in any value.
    """
    from feature_repo.confirm import confirm

    with step("feast") as s:
        check = confirm(state.home(), get_use_case(use_case), views, training_set)
        if check.mismatches:
            raise SkewError(f"{use_case}: {check.error()}")
        s.say(f"{check.rows:,} rows, {check.values:,} values, no mismatch")
    return Confirmed(check, s.record)
