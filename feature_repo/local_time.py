"""Local clock time of UTC instants, the same in ingestion, training and the server."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

Array = np.ndarray[tuple[int], np.dtype[Any]]
_QUARTER = 900  # seconds
_HOURS = tuple(f"{hour:02d}" for hour in range(24))


def local_time(instants: Array, zone: str) -> Array:
    """Wall-clock time in ``zone`` of UTC instants (datetime64), as datetime64[s] [n].

    Offsets change on a quarter of an hour in UTC (Lord Howe's on the half), so one look-up for
    each does.
    """
    seconds = instants.astype("datetime64[s]").astype(np.int64)
    if len(seconds) == 1:  # one request: the search for equal quarters would cost the most
        quarter = int(seconds[0]) // _QUARTER
        single: Array = (seconds + _offset(quarter, zone)).astype("datetime64[s]")
        return single
    quarters, inverse = np.unique(seconds // _QUARTER, return_inverse=True)
    offsets = np.array([_offset(int(quarter), zone) for quarter in quarters], dtype=np.int64)
    local: Array = (seconds + offsets[inverse]).astype("datetime64[s]")
    return local


def two_digits(hours: Array) -> Array:
    """Texts '00' to '23' of whole hours [n]: a categorical input."""
    texts: Array = np.array([_HOURS[hour] for hour in hours.tolist()])
    return texts


@lru_cache(maxsize=65_536)
def _offset(quarter: int, zone: str) -> int:
    instant = datetime.fromtimestamp(quarter * _QUARTER, tz=timezone.utc)
    offset = instant.astimezone(ZoneInfo(zone)).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0
