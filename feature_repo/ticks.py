"""The tick rule: every stored feature is read as of a tick, offline and online alike.

A tick is a multiple of ``UseCase.tick`` since the epoch. A request made at ``prediction_time``
reads the last tick at or before ``prediction_time - lag``; an event belongs to the first tick
at or after its ``available_at``.
"""

import time
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def tick_of(prediction_time: datetime, *, tick: timedelta, lag: timedelta) -> datetime:
    """Tick that a request at ``prediction_time`` (aware) reads; aware, in UTC."""
    return EPOCH + ((prediction_time - lag - EPOCH) // tick) * tick


def epoch_seconds(instant: datetime) -> int:
    """Whole seconds since the epoch of an aware instant."""
    return (instant - EPOCH) // timedelta(seconds=1)


def clock_zone() -> str:
    """The process's time zone, as seconds west of UTC in winter and in summer.

    Feast's sqlite store keeps local wall-clock times: who reads it must be in the writer's zone.
    """
    return f"{time.timezone},{time.altzone if time.daylight else time.timezone}"
