"""Messages that cannot be: set aside with a reason when they are received, or when a step meets
them; no other one is stopped."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from message_helpers import (
    HOUR,
    SCHEMA,
    START,
    WEATHER,
    first_version,
    message,
    raw,
    row,
    served,
)

from feature_repo import offline
from feature_repo.contract import FeatureSpec
from feature_repo.errors import SourceError, StateError
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.messages import Message, faults
from feature_repo.registry import get_use_case
from feature_repo.stream import advance, forget_messages, receive, retry
from feature_repo.tables import named, parts_of, write_raw


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of weather at three airports, as a first version."""
    return first_version(tmp_path)


class Odd(dict[str, Any]):
    """A row that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


FAR = timezone(timedelta(hours=14))
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
    "more than 90 days before": message(reported=-24 * 91),
    "which is no double: ": message(temp=10**400),
    "which is no double: Integer": message(temp=2**60 + 1),
    "which is no string: 'utf-8'": message(origin="J\ud800K"),
    "holds 5,000 characters": message(origin="J" * 5000),
    "holds 9999-12-31T23:00:00+00:00; years": message(
        time_hour=datetime(9999, 12, 31, 23, tzinfo=timezone.utc)
    ),
    "holds 0001-01-01T00:00:00+14:00; years": message(time_hour=datetime(1, 1, 1, tzinfo=FAR)),
    "NaTType does not support utcoffset": message(time_hour=pd.NaT),
    "argument of type 'NoneType'": replace(message(), row=None),  # type: ignore[arg-type]
    "column 'dewp' is missing": replace(
        message(), row=Odd(origin="JFK", time_hour=START, temp=1.0)
    ),
    "unhashable type": replace(message(), table=["weather"]),  # type: ignore[arg-type]
    "'observations': its events become known only after 2013-06-30T14:00:00Z": message(
        2, reported=1
    ),
    "its events lie before 1970": message(
        time_hour=datetime(1950, 1, 1, tzinfo=timezone.utc)
    ),
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


def test_flights_are_held_to_their_contract_logs_and_features() -> None:
    """Each by itself, whatever else comes with it; a text stands for a number in the files."""
    flights = get_use_case("flights")
    instants = {name: pa.timestamp("us", "UTC") for name in ("departure", "arrival")}
    schema = pa.schema(
        {name: pa.string() for name in ("carrier", "flight", "tailnum", "origin", "dest", "date")}
        | {name: pa.float64() for name in ("distance", "dep_delay", "arr_delay")}
        | {f"scheduled_{name}": kind for name, kind in instants.items()}
    )
    good: dict[str, Any] = {
        "carrier": "B6", "flight": "1172", "tailnum": None, "origin": "EWR", "dest": "BOS",
        "date": "2013-06-30", "distance": 200.0, "scheduled_departure": START,
        "scheduled_arrival": START + HOUR, "dep_delay": 5.0, "arr_delay": None,
    }  # fmt: skip
    cases: dict[str, dict[str, Any]] = {
        "": {},
        "flight = 12a breaks dtype": {"flight": "12a"},
        "flight = 0 breaks": {"flight": "0"},
        "'pending': its events have a scheduled outside": {
            "dep_delay": None, "scheduled_departure": START.replace(year=2150),
        },
        "'arrivals': its events have no event_timestamp": {
            "arr_delay": 3.0, "scheduled_arrival": None,
        },
        "'arrivals': its events become known only after": {"arr_delay": 90.0},
    }  # fmt: skip
    told = [
        Message(table="flights", row=good | odd, reported_at=START + HOUR) for odd in cases.values()
    ]
    found = faults(flights, {"flights": schema}, told, START + 2 * HOUR)
    assert found[0] == ""
    for part, reason in zip(list(cases)[1:], found[1:], strict=True):
        assert part in reason


# A bound that no rule of a message knows: three observations of a station in three hours.
FEW = FeatureSpec(
    name="few", entity=WEATHER.features[0].entity, log=WEATHER.features[0].log, value="temp",
    aggregation="count", window=3 * HOUR, bounds=(0.0, 3.0), default=0.0,
)  # fmt: skip
NARROW = replace(WEATHER, features=(*WEATHER.features, FEW))


def test_a_message_that_breaks_a_step_is_set_aside_by_it(tmp_path: Path) -> None:
    """Two of many: the others are taken, the two are not met again, and a version that is made
    from files anew does not take them either."""
    home, until = first_version(tmp_path, NARROW), START + 9 * HOUR
    files = offline.newest(home, NARROW).built.tables
    told = [message(hours, temp=71.0 + hours) for hours in range(8)]
    for place, hours in ((5, 2.5), (9, 6.5)):
        between = message(reported=8.5, time_hour=START + hours * HOUR, temp=99.0)
        told.insert(place, between)
    assert receive(home, NARROW, told, until).accepted == 10
    made = advance(home, NARROW, until)
    assert (made.messages, made.version.offset) == (10, 10)
    assert len(made.refused) == 2
    assert all("'few' breaks the rule in_range(0.0, 3.0)" in reason for reason in made.refused)
    assert [r["temp"] for r in raw(home, NARROW) if r["temp"] != 70.0] == [*range(71, 79)]
    assert served(home, use_case=NARROW) == 78.0
    with closing(Inbox(home, NARROW)) as inbox:
        assert sum(inbox.refused().values()) == 2
    again = advance(home, NARROW, until + HOUR)
    assert (again.messages, again.refused) == (0, ())
    offline.update(home, NARROW, files, until=until)
    anew = advance(home, NARROW, until + HOUR)
    assert (anew.messages, anew.refused) == (10, ())
    assert served(home, use_case=NARROW) == 78.0


def test_what_an_older_program_let_pass_is_set_aside_too(home: Home, tmp_path: Path) -> None:
    """A row that the inbox holds and no table can; an earlier report of the same hour counts."""
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    bad = json.dumps({**row(temp="warm"), "time_hour": START.isoformat()})
    with closing(sqlite3.connect(tmp_path / "stream" / "weather.db")) as inbox, inbox:
        inbox.execute(
            "INSERT INTO messages (raw_table, key, reported, row) "
            "SELECT raw_table, key, reported + 1, ? FROM messages", (bad,),
        )  # fmt: skip
    receive(home, WEATHER, [message(1, temp=76.0)], START + 2 * HOUR)
    made = advance(home, WEATHER, START + 1.5 * HOUR)
    (reason,) = made.refused
    assert "the features cannot be computed with it" in reason
    assert "warm" in reason
    assert served(home) == 75.0
    assert advance(home, WEATHER, START + 2 * HOUR).refused == ()
    assert served(home) == 76.0


def test_a_fault_without_messages_is_none_of_theirs(tmp_path: Path) -> None:
    """Rows of files that break a step: it fails, and sets nothing aside."""
    home = Home(root=tmp_path)
    rows = [row(hours=-hours) for hours in range(1, 20)]
    rows.append(row(time_hour=START - 2.5 * HOUR))
    table = write_raw(home, NARROW.tables[0], pa.Table.from_pylist(rows, schema=SCHEMA))
    offline.update(home, NARROW, [table], until=START - 10 * HOUR)
    receive(home, NARROW, [message(hours) for hours in range(3)], START + 3 * HOUR)
    with pytest.raises(SourceError, match="'few' breaks the rule"):
        advance(home, NARROW, START + 3 * HOUR)
    with closing(Inbox(home, NARROW)) as inbox:
        assert not inbox.refused()
    assert offline.newest(home, NARROW).number == 1


@pytest.mark.parametrize("fault", ["cut", "one byte", "empty"])
def test_a_damaged_stored_file_is_no_message_s_fault(home: Home, fault: str) -> None:
    """The step says which file, and stops: its messages wait, and come in once it is restored."""
    receive(home, WEATHER, [message(hours) for hours in range(14)], START + 14 * HOUR)
    before = advance(home, WEATHER, START + 14 * HOUR).version
    part = parts_of(named(before.built.tables, "weather"))["2013-07"]
    whole = part.read_bytes()
    flipped = whole[:9] + bytes([whole[9] ^ 255]) + whole[10:]
    part.write_bytes({"cut": whole[: len(whole) // 2], "one byte": flipped, "empty": b""}[fault])
    told = [message(13, reported=15, temp=76.0), message(14, temp=77.0)]
    assert receive(home, WEATHER, told, START + 15 * HOUR).refused == ()
    with pytest.raises(StateError, match=r"table 'weather' .* is damaged: .*2013-07.*; restore it"):
        advance(home, WEATHER, START + 15 * HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        assert not inbox.refused()
    part.write_bytes(whole)
    made = advance(home, WEATHER, START + 15 * HOUR)
    assert (made.messages, made.refused) == (2, ())
    assert served(home) == 77.0


def test_messages_are_not_received_over_a_damaged_table(home: Home) -> None:
    """Their sender is told so; none of them is refused for it."""
    (part,) = parts_of(named(offline.newest(home, WEATHER).built.tables, "weather")).values()
    part.write_bytes(b"")
    with pytest.raises(StateError, match=r"table 'weather' .* is damaged"):
        receive(home, WEATHER, [message()], START + HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        assert (inbox.last, inbox.refused()) == (0, {})


def test_what_was_set_aside_can_be_taken_in_again(home: Home) -> None:
    """Once its cause is mended; each once, whatever came later about its row still counts, and
    what the steps of the stream cannot take is set aside again."""
    told = [message(0, temp=75.0), message(1, temp=76.0), message(1, temp=77.0, reported=2.5)]
    receive(home, WEATHER, told, START + 3 * HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(1, "a disk was full")
        inbox.set_aside(2, "a disk was full")
    made = advance(home, WEATHER, START + 3 * HOUR)
    assert [r["temp"] for r in raw(home) if r["temp"] != 70.0] == [77.0]
    now = START + 4 * HOUR
    assert retry(home, WEATHER, now + WEATHER.retention) == [], "what is that late is in the files"
    first, second = retry(home, WEATHER, now)
    assert first == ('message 1 (weather ["JFK", "2013-06-30T12:00:00+00:00"]): a disk was full')
    assert second.startswith("message 2 (weather")
    assert retry(home, WEATHER, now) == []
    made = advance(home, WEATHER, START + 3 * HOUR)
    assert (made.messages, made.version.offset) == (2, 5)
    assert [r["temp"] for r in raw(home) if r["temp"] != 70.0] == [75.0, 77.0]
    assert served(home) == 77.0
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(4, "once more")
    (line,) = retry(home, WEATHER, now)
    assert line.startswith("message 4")


def test_another_service_sees_a_message_that_came_twice(tmp_path: Path) -> None:
    """One service could not take it; the other had it, and keeps its value of that row."""
    home, until = first_version(tmp_path, NARROW), START + 9 * HOUR
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=START)
    told = [message(hours, temp=71.0 + hours) for hours in range(8)]
    told.append(message(reported=8.5, time_hour=START + 2.5 * HOUR, temp=99.0))
    receive(home, NARROW, told, until)
    assert len(advance(home, NARROW, until).refused) == 1
    before = advance(home, WEATHER, until).version
    assert 99.0 in [r["temp"] for r in raw(home)]
    assert retry(home, WEATHER, until) == []
    assert len(retry(home, NARROW, until)) == 1
    after = advance(home, WEATHER, until)
    assert (after.messages, after.version.built) == (1, before.built)
    assert len(advance(home, NARROW, until).refused) == 1
    assert len(retry(home, NARROW, until)) == 1


def test_refused_messages_are_forgotten_with_the_settled_ones(tmp_path: Path) -> None:
    """Not before the retention is over, nor while another service counts one or has not met it;
    and what is forgotten as set aside does not come back as a message."""
    home, until = first_version(tmp_path, NARROW), START + 4 * HOUR
    files = offline.newest(home, NARROW).built.tables
    offline.update(home, WEATHER, files, until=START)
    told = [message(hours, temp=71.0 + hours) for hours in range(3)]
    poison = message(reported=3.5, time_hour=START + 1.5 * HOUR, temp=99.0)
    receive(home, NARROW, [*told, poison, message(temp=1e6)], until)
    assert len(advance(home, NARROW, until).refused) == 1
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(4, "for a while")
    soon, later = START + WEATHER.retention, until + WEATHER.retention + HOUR

    def kept() -> int:
        with closing(Inbox(home, NARROW)) as inbox:
            return sum(inbox.refused().values())

    assert (forget_messages(home, NARROW, soon, 4), kept()) == (0, 3)
    assert len(retry(home, NARROW, soon)) == 1
    advance(home, NARROW, until)
    assert kept() == 4, "the copy is set aside too"
    assert (forget_messages(home, NARROW, later, 3), kept()) == (1, 3), "what was no message"
    assert retry(home, NARROW, later) == []
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(5, "still")
    assert (forget_messages(home, NARROW, later, 5), kept()) == (2, 0)
    offline.update(home, NARROW, files, until=until)
    assert advance(home, NARROW, until).refused == ()
    assert 99.0 not in [r["temp"] for r in raw(home, NARROW)]


def test_a_message_that_another_service_has_stays(tmp_path: Path) -> None:
    """Until that service is gone: then nothing counts it."""
    home, until = first_version(tmp_path, NARROW), START + 4 * HOUR
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=START)
    receive(home, NARROW, [message()], until)
    with closing(Inbox(home, NARROW)) as inbox:
        inbox.set_aside(1, "cannot be")
    later = until + WEATHER.retention
    assert forget_messages(home, NARROW, later, 1) == 0
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=until)
    assert advance(home, WEATHER, until).messages == 1
    shutil.rmtree(tmp_path / "offline" / WEATHER.service)
    assert forget_messages(home, NARROW, later, 1) == 1
    with closing(Inbox(home, NARROW)) as inbox:
        assert (inbox.last, inbox.refused()) == (1, {})
