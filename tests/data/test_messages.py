"""Messages into the raw tables: late, twice and out of order, and a step cut short."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from message_helpers import HOUR, SCHEMA, START, WEATHER, first_version, message, raw, row, served

from feature_repo import offline
from feature_repo.engine import build_views
from feature_repo.errors import SkewError, StateError
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.messages import Message
from feature_repo.online_rows import rows_of
from feature_repo.stream import advance, receive
from feature_repo.tables import named, parts_of, write_raw
from tasks.parity import check_parity
from tasks.replay import check_end


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of weather at three airports, as a first version."""
    return first_version(tmp_path)


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


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_a_message_may_come_twice_and_late(
    home: Home, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was reported last counts, whenever it comes; of two of one instant the first.
    An earlier hour that is told later does not overwrite a later one, on either store."""
    if store == "redis":
        monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", request.getfixturevalue("redis_url"))
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
    receive(home, WEATHER, [message(-1, reported=2.5, temp=50.0)], START + 3 * HOUR)
    advance(home, WEATHER, START + 3 * HOUR)
    assert 50.0 in [r["temp"] for r in raw(home)]
    assert served(home) == 72.0


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


def test_a_step_cut_before_its_record_is_done_again(home: Home) -> None:
    """Tables that a killed step left name nothing; the next one reads the same messages."""
    from feature_repo.stream import fold

    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        news = inbox.news(0, inbox.last)
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
    """After a version made from files, which holds no message, all of them are taken in again. A
    correction in the files does not count against one; a later message does, then and after."""
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    advance(home, WEATHER, START + HOUR)
    tables = [write_raw(home, WEATHER.tables[0], pa.Table.from_pylist([row(temp=0.0)], SCHEMA))]
    offline.update(home, WEATHER, tables, until=START + HOUR)
    made = advance(home, WEATHER, START + 2 * HOUR)
    assert made.messages == 1
    assert [r["temp"] for r in raw(home)] == [75.0]
    assert served(home) == 75.0
    receive(home, WEATHER, [message(temp=76.0, reported=1.5)], START + 2 * HOUR)
    for _ in range(2):
        advance(home, WEATHER, START + 2 * HOUR)
        assert [r["temp"] for r in raw(home)] == [76.0]
        assert served(home) == 76.0
        offline.update(home, WEATHER, tables, until=START + 2 * HOUR)


def test_a_step_of_the_past_fills_the_store_as_of_then(home: Home) -> None:
    """Not as of the version's last tick, which no request of then may read; nor back in time."""
    until = offline.newest(home, WEATHER).until
    made = advance(home, WEATHER, until - 5 * HOUR)
    assert made.online.tick == (until - 5 * HOUR).isoformat()
    views = made.version.built.views
    assert "0 mismatches" in check_parity(home, WEATHER, views).describe()
    assert advance(home, WEATHER, until).online.tick == until.isoformat()
    assert advance(home, WEATHER, until - 2 * HOUR).online.tick == until.isoformat()


def test_a_version_that_begins_anew_takes_no_store_back(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine's first version may end before the store's tick; the next step leads it there,
    though it is asked for an earlier one."""
    receive(home, WEATHER, [message(hours) for hours in range(6)], START + 6 * HOUR)
    advance(home, WEATHER, START + 6 * HOUR)
    monkeypatch.setattr(offline, "engine_code", lambda: "another")
    offline.update(home, WEATHER, offline.versions(home, WEATHER)[0].built.tables, until=START)
    made = advance(home, WEATHER, START + 3 * HOUR)
    assert made.online.tick == (START + 6 * HOUR).isoformat()
    assert "0 mismatches" in check_parity(home, WEATHER, made.version.built.views).describe()


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


def test_the_present_is_streamed(tmp_path: Path) -> None:
    """The last whole hour, as it is reported when it is over; a version from the data alone goes
    no further than a request made now reads, though the timetable of requests lies ahead."""
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) - HOUR
    ahead = "select time_hour + interval '9' day as prediction_time from weather"
    case, home = replace(WEATHER, requests_sql=ahead), Home(root=tmp_path)
    rows = [row(time_hour=hour - n * HOUR) for n in range(1, 30)]
    table = write_raw(home, case.tables[0], pa.Table.from_pylist(rows, SCHEMA))
    made = offline.update(home, case, [table])
    assert now - case.lag - case.tick < made.until <= datetime.now(timezone.utc) - case.lag
    told = Message(table="weather", row=row(time_hour=hour, temp=80.0), reported_at=now)
    assert receive(home, case, [told], now).refused == ()
    advance(home, case, now + case.tick)
    assert served(home, use_case=case) == 80.0
