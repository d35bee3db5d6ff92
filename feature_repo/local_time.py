"""Local clock time of UTC instants, the same in ingestion, training and the server."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

Array = np.ndarray[tuple[int], np.dtype[Any]]


def local_time(instants: Array, zone: str) -> Array:
    """Wall-clock time in ``zone`` of UTC instants (datetime64), as datetime64[s] [n].

    Offsets change on a quarter of an hour in UTC (Lord Howe's on the half), so one look-up for
    each does.
    """
    seconds = instants.astype("datetime64[s]").astype(np.int64)
    quarters, inverse = np.unique(seconds // 900, return_inverse=True)
    info = ZoneInfo(zone)
    offsets = np.array([_offset(int(quarter) * 900, info) for quarter in quarters], dtype=np.int64)
    local: Array = (seconds + offsets[inverse]).astype("datetime64[s]")
    return local


def _offset(seconds: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone(zone).utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0
