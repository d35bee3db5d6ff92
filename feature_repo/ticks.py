"""The tick rule: every stored feature is read as of a tick, offline and online alike.

A tick is a multiple of ``UseCase.tick`` since the epoch. A request made at ``prediction_time``
reads the last tick at or before ``prediction_time - lag``; an event belongs to the first tick
at or after its ``available_at``.
"""

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def tick_of(prediction_time: datetime, *, tick: timedelta, lag: timedelta) -> datetime:
    """Tick that a request at ``prediction_time`` (aware) reads; aware, in UTC."""
    return EPOCH + ((prediction_time - lag - EPOCH) // tick) * tick


def epoch_seconds(instant: datetime) -> int:
    """Whole seconds since the epoch of an aware instant."""
    return (instant - EPOCH) // timedelta(seconds=1)


def aware(instant: datetime) -> datetime:
    """The instant as it is; without a zone it is meant in UTC."""
    return instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)
