"""Messages that cannot be: set aside with a reason when they are received, or when a step meets
them; no other one is stopped."""

from __future__ import annotations

import json
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
    NARROW,
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
from feature_repo.errors import SourceError
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.messages import Message, faults
from feature_repo.registry import get_use_case
from feature_repo.stream import advance, receive
from feature_repo.tables import write_raw


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
