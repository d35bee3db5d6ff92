"""Local clocks, against the standard library, instant by instant."""

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from feature_repo.local_time import local_time


@pytest.mark.parametrize("zone", ["America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_every_quarter_of_2013(zone: str) -> None:
    """Lord Howe's clock changes on half an hour in UTC."""
    start = datetime(2013, 1, 1, tzinfo=timezone.utc)
    seconds = int(start.timestamp()) + 900 * np.arange(365 * 96)
    expected = [
        np.datetime64(datetime.fromtimestamp(int(s), ZoneInfo(zone)).replace(tzinfo=None), "s")
        for s in seconds
    ]
    assert (local_time(seconds.astype("datetime64[s]"), zone) == np.array(expected)).all()
