"""Messages into the raw tables: late, twice, out of order and bad ones, and a step cut short."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo import offline
from feature_repo.engine import build_views
from feature_repo.errors import SkewError, StateError
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.messages import Message
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.stream import advance, receive
from feature_repo.tables import named, parts_of, read_table, write_raw
from serving.online import OnlineStore
from tasks.replay import check_end

WEATHER = get_use_case("weather")
START = datetime(2013, 6, 30, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def row(origin: str = "JFK", hours: int = 0, **values: Any) -> dict[str, Any]:
    """An hour's weather, ``hours`` after ``START``."""
    return {
        "origin": origin, "time_hour": START + hours * HOUR, "temp": 70.0, "dewp": 60.0,
        "humid": 50.0, "wind_speed": 5.0, "precip": 0.0, "pressure": None, "visib": 10.0, **values,
    }  # fmt: skip


def message(hours: int = 0, reported: float | None = None, **values: Any) -> Message:
    """A message about an hour's weather, reported when it is over, or ``reported`` hours after
    ``START``."""
    at = START + (hours + 1 if reported is None else reported) * HOUR
    return Message(table="weather", row=row(hours=hours, **values), reported_at=at)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of weather at three airports, as a first version."""
    home, declared = Home(root=tmp_path), WEATHER.tables[0]
    rows = [row(origin, -hours) for origin in ("EWR", "JFK", "LGA") for hours in range(1, 49)]
    table = write_raw(home, declared, pa.Table.from_pylist(rows, schema=SCHEMA))
    offline.update(home, WEATHER, [table], until=START)
    return home


SCHEMA = pa.schema(
    {name: pa.float64() for name in row()}
    | {"origin": pa.string(), "time_hour": pa.timestamp("us", "UTC")}
)


def raw(home: Home) -> list[dict[str, Any]]:
    """The raw rows of the newest version."""
    table = read_table(named(offline.newest(home, WEATHER).built.tables, "weather"))
    return list(table.to_pylist())


def served(home: Home, name: str = "temp_now") -> float:
    """JFK's feature as the server reads it."""
    with closing(OnlineStore(rows_of(home, WEATHER), WEATHER)) as store:
        return float(store.read([{"origin": "JFK"}]).columns[name][0])


def test_a_message_is_answered_from_at_its_tick(home: Home) -> None:
    """Only the month that it belongs to is written; its facts count from their tick on."""
    before = offline.newest(home, WEATHER)
    told = [message(hours, temp=80.0 + hours) for hours in range(14)]
    assert receive(home, WEATHER, told, START + 14 * HOUR).accepted == 14
    assert advance(home, WEATHER, START + HOUR / 2).online.tick == "2013-06-30T12:30:00+00:00"
    assert served(home) == 70.0
    made = advance(home, WEATHER, START + 13 * HOUR)
    assert (made.messages, made.version.offset, made.version.corrected) == (0, 14, 0)
    assert served(home) == 92.0
    old, new = (parts_of(named(v.built.tables, "weather")) for v in (before, made.version))
    assert (set(old), set(new)) == ({"2013-06"}, {"2013-06", "2013-07"})
    made = advance(home, WEATHER, START + 14 * HOUR)
    assert made.version.built.tables == offline.versions(home, WEATHER)[-2].built.tables


def test_a_message_may_come_twice_and_late(home: Home) -> None:
    """The one that was reported last counts, whenever it comes; of two of one instant the first."""
    first, second = message(temp=71.0), message(temp=72.0, reported=1.5)
    for told, temp in ((second, 72.0), (first, 72.0), (second, 72.0)):
        receive(home, WEATHER, [told], START + 3 * HOUR)
        made = advance(home, WEATHER, START + 3 * HOUR)
        assert served(home) == temp
    assert made.version.offset == 3
    receive(home, WEATHER, [message(temp=73.0, reported=1.5)], START + 3 * HOUR)
    advance(home, WEATHER, START + 3 * HOUR)
    assert served(home) == 72.0
    assert len(raw(home)) == 3 * 48 + 1


def test_any_order_and_any_cut_into_steps_ends_the_same(tmp_path: Path, home: Home) -> None:
    """Byte for byte what a computation from the start makes of the last reports."""
    rng = random.Random(7)
    told = [
        message(hours, reported=hours + 1 + again, temp=float(rng.randrange(40, 90)))
        for hours in range(-30, 20)
        for again in range(rng.choice((1, 1, 2, 3)))
    ]
    last = {m.row["time_hour"]: m for m in sorted(told, key=lambda m: m.reported_at)}
    told += rng.sample(told, 20)
    rng.shuffle(told)
    until = START + 30 * HOUR
    while told:
        some = [told.pop() for _ in range(min(len(told), rng.randrange(5, 40)))]
        assert receive(home, WEATHER, some, until).refused == ()
        made = advance(home, WEATHER, until)
    rows = [r for r in raw(home) if r["origin"] == "JFK" and r["time_hour"] in last]
    assert [r["temp"] for r in rows] == [last[r["time_hour"]].row["temp"] for r in rows]
    assert len(rows) == len(last) == 50
    again = Home(root=tmp_path / "again")
    tables = [write_raw(again, WEATHER.tables[0], pa.Table.from_pylist(raw(home), SCHEMA))]
    built = build_views(again, WEATHER, tables, until)
    assert [t.digest for t in built.tables] == [t.digest for t in made.version.built.tables]
    assert [t.digest for t in built.views] == [t.digest for t in made.version.built.views]


def test_a_message_that_was_lost_is_seen_in_the_end(home: Home) -> None:
    """The replay's last check: a row less, or another value, than the truth has."""
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    advance(home, WEATHER, START + HOUR)
    table = pa.Table.from_pylist(raw(home), SCHEMA)
    check_end(home, WEATHER, {"weather": table}, START + HOUR)
    more = [*raw(home), row("EWR", temp=75.0)]
    for rows in (raw(home)[1:], more):
        with pytest.raises(SkewError, match="raw table 'weather'"):
            check_end(home, WEATHER, {"weather": pa.Table.from_pylist(rows, SCHEMA)}, START + HOUR)


BAD = {
    "no raw table 'wether'": replace(message(), table="wether"),
    "column 'temp' is missing": replace(
        message(), row={k: v for k, v in row().items() if k != "temp"}
    ),
    "column 'temp' holds 'warm'": message(temp="warm"),
    "column 'temp' holds True": message(temp=True),
    "column 'temp' holds nan": message(temp=float("nan")),
    "in_range(-60, 135)": message(temp=1000.0),
    "column 'origin' is null": message(origin=None),
    "column 'origin' holds 7": message(origin=7),
    "str_length(3, 3)": message(origin="JFKX"),
    "column 'time_hour' holds 2013-06-30T12:00:00, which states no zone": message(
        time_hour=START.replace(tzinfo=None)
    ),
    "column 'reported_at' holds 2013-06-30T13:00:00, which states no zone": replace(
        message(), reported_at=datetime(2013, 6, 30, 13)  # noqa: DTZ001
    ),
    "is later than 2013-06-30T14:00:00+00:00": message(reported=3),
    "column 'reported_at' holds '13:00'": replace(message(), reported_at="13:00"),  # type: ignore[arg-type]
}  # fmt: skip


def test_a_bad_message_is_set_aside_with_its_reason(home: Home) -> None:
    """One bad message stops no good one; each is kept, and counted by its reason."""
    told = [message(temp=75.0), *BAD.values(), message(1, temp=76.0)]
    received = receive(home, WEATHER, told, START + 2 * HOUR)
    assert received.accepted == 2
    for part, reason in zip(BAD, received.refused, strict=True):
        assert part in reason
    with closing(Inbox(home, WEATHER)) as inbox:
        assert sum(inbox.refused().values()) == len(BAD)
        assert set(inbox.refused()) == set(received.refused)
    assert advance(home, WEATHER, START + 2 * HOUR).messages == 2
    assert served(home) == 76.0


def test_a_step_cut_before_its_record_is_done_again(home: Home) -> None:
    """Tables that a killed step left name nothing; the next one reads the same messages."""
    from feature_repo.stream import fold

    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        news = inbox.news(0)
    fold(home, WEATHER, offline.newest(home, WEATHER).built.tables, news.rows)  # and then kill -9
    made = advance(home, WEATHER, START + HOUR)
    assert (made.messages, made.version.number, served(home)) == (1, 2, 75.0)


def test_a_step_cut_after_its_record_fills_the_store(home: Home) -> None:
    """The version is there, the online store is not: nothing is read twice."""
    advance(home, WEATHER, START)
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    store = rows_of(home, WEATHER)
    with closing(store):
        made = advance(home, WEATHER, START + HOUR)
        store.drop()
    again = advance(home, WEATHER, START + HOUR)
    assert again.version == made.version
    assert (again.messages, served(home)) == (0, 75.0)
    assert np.isnan(served(home, "pressure_now"))


def test_messages_outrank_the_rows_of_files(home: Home) -> None:
    """After a version made from files, which holds no message, all of them are taken in again."""
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    advance(home, WEATHER, START + HOUR)
    tables = [write_raw(home, WEATHER.tables[0], pa.Table.from_pylist([row(temp=0.0)], SCHEMA))]
    offline.update(home, WEATHER, tables, until=START + HOUR)
    made = advance(home, WEATHER, START + 2 * HOUR)
    assert made.messages == 1
    assert [r["temp"] for r in raw(home)] == [75.0]
    assert served(home) == 75.0


def test_no_version_and_another_inbox_are_refused(home: Home, tmp_path: Path) -> None:
    """A stream needs raw tables to go on from, and the inbox that they were made with."""
    with pytest.raises(StateError, match="run the use case's workflow"):
        advance(Home(root=tmp_path / "new"), WEATHER, START)
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    advance(home, WEATHER, START + HOUR)
    for path in (tmp_path / "stream").iterdir():
        path.unlink()
    with pytest.raises(StateError, match=r"ends with message 0, .* holds 1: restore"):
        advance(home, WEATHER, START + HOUR)
