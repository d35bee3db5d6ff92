"""Schedules: features and their cards every night, what was streamed since every 15 minutes,
training every week; each as of its kick-off time."""

from datetime import datetime, timedelta
from typing import NamedTuple

from flytekit import CronSchedule, Email, LaunchPlan, WorkflowExecutionPhase, task, workflow

from tasks.feature_versions import forget_versions
from tasks.flights import ingest_flights
from tasks.freshness import check_freshness
from tasks.housekeeping import clean_home
from tasks.ingest import fingerprint
from tasks.resources import SMALL
from tasks.state import open_state
from tasks.stream import advance_features
from tasks.training_set import build_features
from tasks.types import DEFAULT_CONFIG, TrainingConfig
from workflows.features import cards
from workflows.flights import flights
from workflows.lifecycle import Flown

GRACE_MINUTES = 12 * 60  # longer than any pipeline runs; the next night must be past it
OWNERS = ["ml-platform@example.com"]
SOURCE = "/data/flights"  # deploy/flyte/pod-template.yaml mounts it; a launch may name another


class Dates(NamedTuple):
    """Bounds of the parts, each the first instant of a month (UTC)."""

    training_start: datetime
    validation_start: datetime
    test_start: datetime
    test_end: datetime


def months_before(month: datetime, count: int) -> datetime:
    """First instant of the month that lies ``count`` months before ``month``'s."""
    index = month.year * 12 + month.month - 1 - count
    return month.replace(
        year=index // 12, month=index % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0
    )


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=5))
def split_dates(kickoff_time: datetime) -> Dates:
    """The defaults' shape, moved to end with the last whole month before the kick-off: nine
    months of training, one of validation, two of test."""
    return Dates(
        months_before(kickoff_time, 12),
        months_before(kickoff_time, 3),
        months_before(kickoff_time, 2),
        months_before(kickoff_time, 0),
    )


@workflow
def retrain_flights(
    kickoff_time: datetime,
    source: str,
    launcher: str = "one-process",
    config: TrainingConfig = DEFAULT_CONFIG,
) -> Flown:
    """Train, judge and release on the twelve whole months before the kick-off.

    Args:
        kickoff_time: set by the schedule.
        source: a folder that is kept up to date, with the contract of the flights tables.
        launcher: one-process, two-ranks or nodes.
        config: hyper-parameters of the training.
    """
    dates = split_dates(kickoff_time=kickoff_time)
    return flights(
        source=source,
        training_start=dates.training_start,
        validation_start=dates.validation_start,
        test_start=dates.test_start,
        test_end=dates.test_end,
        launcher=launcher,
        config=config,
    )


@workflow
def refresh_flights_features(kickoff_time: datetime, source: str) -> None:
    """Ingest what is new, compute the feature views from it, take in what was streamed, fill the
    online store, forget old versions and messages, free what nothing needs any more, and hold the
    source to its freshness promises.

    What was streamed outranks the files, and comes in before the store is filled. Freshness comes
    last: a broken promise fails the execution, which mails the owners, but by then all is done.

    Args:
        kickoff_time: set by the schedule; the server answers requests that are made from then on.
        source: a folder that is kept up to date, with the contract of the flights tables.
    """
    opened = open_state(use_case="flights")
    found = fingerprint(use_case="flights", source=source)
    data = ingest_flights(state=opened.state, source=source, digest=found.digest)
    features = build_features(
        state=opened.state,
        use_case="flights",
        declaration=opened.declaration,
        tables=data.tables,
        quarantine=data.quarantine,
        rows_read=data.rows_read,
        as_of=kickoff_time,
    )
    online = advance_features(state=opened.state, use_case="flights", as_of=kickoff_time)
    pruned = forget_versions(use_case="flights")
    cleaned = clean_home(grace_minutes=GRACE_MINUTES, remove=True)
    fresh = check_freshness(
        state=opened.state, use_case="flights", tables=data.tables, as_of=kickoff_time
    )
    features.step >> online >> pruned >> cleaned >> fresh.step


@workflow
def stream_flights_features(kickoff_time: datetime) -> None:
    """Bring the features to the tick that requests read from now on, with the messages that came.

    Without messages the tick moves on all the same: windows empty, and the store does not go stale.

    Args:
        kickoff_time: set by the schedule.
    """
    opened = open_state(use_case="flights")
    advance_features(state=opened.state, use_case="flights", as_of=kickoff_time)


FAILED = [WorkflowExecutionPhase.FAILED, WorkflowExecutionPhase.TIMED_OUT]
ENDED = [*FAILED, WorkflowExecutionPhase.SUCCEEDED]

nightly_features = LaunchPlan.get_or_create(
    workflow=refresh_flights_features,
    name="nightly_flights_features",
    schedule=CronSchedule(schedule="0 3 * * *", kickoff_time_input_arg="kickoff_time"),
    default_inputs={"source": SOURCE},
    notifications=[Email(phases=FAILED, recipients_email=OWNERS)],
)

# A broken promise fails the night's run, and is to be seen in the cards all the same.
nightly_cards = LaunchPlan.get_or_create(
    workflow=cards,
    name="nightly_flights_cards",
    schedule=CronSchedule(schedule="0 4 * * *"),
    fixed_inputs={"use_case": "flights"},
    notifications=[Email(phases=FAILED, recipients_email=OWNERS)],
)

# Requests read a tick once the declared lag has passed, so that is when a tick is made.
quarter_hourly_features = LaunchPlan.get_or_create(
    workflow=stream_flights_features,
    name="quarter_hourly_flights_features",
    schedule=CronSchedule(schedule="5,20,35,50 * * * *", kickoff_time_input_arg="kickoff_time"),
    notifications=[Email(phases=FAILED, recipients_email=OWNERS)],
)

weekly_training = LaunchPlan.get_or_create(
    workflow=retrain_flights,
    name="weekly_flights_training",
    schedule=CronSchedule(schedule="0 5 * * 1", kickoff_time_input_arg="kickoff_time"),
    default_inputs={"source": SOURCE},
    notifications=[Email(phases=ENDED, recipients_email=OWNERS)],
)
