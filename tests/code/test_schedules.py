"""Dates of a scheduled training follow from its kick-off time alone."""

from datetime import datetime, timezone

import pytest

from workflows.schedules import months_before, split_dates


def utc(year: int, month: int, day: int = 1, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=timezone.utc)


def test_kick_off_in_january_gives_the_defaults() -> None:
    """The year 2013 as the README splits it, for whoever starts in January 2014."""
    dates = split_dates(kickoff_time=utc(2014, 1, 6, 5))
    assert tuple(dates) == (utc(2013, 1), utc(2013, 10), utc(2013, 11), utc(2014, 1))


@pytest.mark.parametrize(
    ("month", "count", "expected"),
    [
        (utc(2026, 11, 23, 7), 0, utc(2026, 11)),
        (utc(2026, 11, 30), 12, utc(2025, 11)),
        (utc(2026, 3, 31), 3, utc(2025, 12)),
        (utc(2024, 2, 29), 2, utc(2023, 12)),
    ],
)
def test_months_before(month: datetime, count: int, expected: datetime) -> None:
    """Whole months, over the turn of the year, whatever the day."""
    assert months_before(month, count) == expected
