"""Event logs that cannot be true are refused with the events at fault; nothing is lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from conftest import Year

from feature_repo import offline
from feature_repo.contract import EventLog
from feature_repo.errors import DeclarationError, SourceError
from feature_repo.events import EventCounts, check_events, check_logs
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import write_raw

FLIGHTS = get_use_case("flights")
LOGS = {view.log.name: view.log for view in FLIGHTS.views}
NOON = datetime(2013, 7, 1, 12, tzinfo=timezone.utc)
TONIGHT = NOON + timedelta(hours=12)


def row(flight: int, hours: float, **other: Any) -> dict[str, Any]:
    """A flight on time, hours from noon."""
    departure = NOON + timedelta(hours=hours)
    times = {"scheduled_departure": departure, "scheduled_arrival": departure + timedelta(hours=2)}
    keys = {"carrier": "UA", "flight": str(flight), "origin": "EWR", "dest": "IAH", "tailnum": "N1"}
    facts = {
        "date": f"{departure:%Y-%m-%d}",
        "distance": 1400.0,
        "dep_delay": 0.0,
        "arr_delay": 0.0,
    }
    return keys | times | facts | other


def flights(*rows: dict[str, Any], zone: str | None = "UTC") -> pa.Table:
    """The raw table; instants are in ``zone``, or in none."""
    table = pa.Table.from_pylist(list(rows))
    for name in ("scheduled_departure", "scheduled_arrival"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.timestamp("us", tz=zone)))
    return table


@pytest.fixture
def session() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in UTC."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def check(
    session: duckdb.DuckDBPyConnection,
    log: EventLog,
    *rows: dict[str, Any],
    zone: str | None = "UTC",
) -> EventCounts:
    """The log held against these flights; instants are in ``zone``, or in none."""
    session.register("flights", flights(*rows, zone=zone))
    return check_events(session, FLIGHTS, log, as_of=TONIGHT)


def refused(session: duckdb.DuckDBPyConnection, log: EventLog, *rows: Any, **zone: Any) -> str:
    """The message of the refusal."""
    with pytest.raises(SourceError) as caught:
        check(session, log, *rows, **zone)
    assert "'flights'" in str(caught.value)
    assert repr(log.name) in str(caught.value)
    return str(caught.value)


def test_events_without_a_key_are_counted(session: duckdb.DuckDBPyConnection) -> None:
    """They belong to no aircraft, and to every other entity all the same."""
    counts = check(session, LOGS["arrivals"], row(1, 0), row(2, 1), row(3, 1, tailnum=None))
    assert counts.events == 3
    assert dict(counts.unkeyed)["tail"] == 1
    assert str(counts) == "1 of 3 arrivals have no tail"
    assert str(check(session, LOGS["arrivals"], row(1, 0))) == ""


@pytest.mark.parametrize(
    ("column", "sql", "parts"),
    [
        ("available_at", "cast(null as timestamp)", ("2 of 2", "no available_at", "became known")),
        ("event_timestamp", "cast(null as timestamp)", ("no event_timestamp", "happened")),
        (
            "available_at", "scheduled_departure - interval '1' minute",
            ("2 of 2", "known before they happened", "declare the log as scheduled"),
        ),
    ],
)  # fmt: skip
def test_instants_that_cannot_be(
    session: duckdb.DuckDBPyConnection, column: str, sql: str, parts: tuple[str, ...]
) -> None:
    """Unknown, or in the wrong order: rule, count, three events and the way out."""
    instants = {"event_timestamp": "scheduled_departure", "available_at": "scheduled_departure"}
    listed = ", ".join(f"{text} as {name}" for name, text in (instants | {column: sql}).items())
    log = replace(
        LOGS["arrivals"],
        sql=f"select carrier, flight, tailnum, origin, dest, {listed} from flights",
    )
    said = refused(session, log, row(1, 0), row(2, 1))
    assert all(part in said for part in (*parts, "for example", "flight = 1", "flight = 2"))


def test_what_is_known_only_tomorrow_is_no_fact(session: duckdb.DuckDBPyConnection) -> None:
    """An arrival of tomorrow is refused; a scheduled departure of tomorrow is a timetable's."""
    rows = [row(1, 0), row(2, 24)]
    said = refused(session, LOGS["arrivals"], *rows)
    for part in ("1 of 2 events", "only after 2013-07-02T00:00:00Z", "flight = 2", "local time"):
        assert part in said
    assert check(session, LOGS["pending"], *rows).events == 4


def test_a_number_that_a_sum_would_round_is_refused(session: duckdb.DuckDBPyConnection) -> None:
    """More decimals than the features declare, or more digits; .1 times 3 has one decimal."""
    said = refused(session, LOGS["arrivals"], row(1, 0), row(2, 1, arr_delay=5.0004))
    for part in ("1 of 2 events have a arr_delay", "no number of 3 decimals", "flight = 2"):
        assert part in said
    assert "floor(x * 1e3 + 0.5) / 1e3" in said
    assert "15 digits before them" in said
    far = refused(session, LOGS["arrivals"], row(1, 0, arr_delay=1e17))
    assert "a value that it cannot compute with" in far
    assert check(session, LOGS["arrivals"], row(1, 0, arr_delay=0.1 * 3)).events == 1


def test_ticks_begin_in_1970(session: duckdb.DuckDBPyConnection) -> None:
    said = refused(session, LOGS["pending"], row(1, -24 * 365 * 50))
    assert "lie before 1970" in said


@pytest.mark.parametrize("name", ["arrivals", "pending"])
def test_a_clock_without_a_zone_is_not_taken_for_utc(
    session: duckdb.DuckDBPyConnection, name: str
) -> None:
    """A raw table whose instants state no zone."""
    said = refused(session, LOGS[name], row(1, 0), zone=None)
    assert "event_timestamp is TIMESTAMP, not an instant in UTC" in said


def test_an_instant_in_nanoseconds_states_its_zone(session: duckdb.DuckDBPyConnection) -> None:
    """The unit is at fault, and said to be."""
    table = flights(row(1, 0))
    at = table.schema.get_field_index("scheduled_departure")
    fine = table["scheduled_departure"].cast(pa.timestamp("ns", tz="UTC"))
    session.register("flights", table.set_column(at, "scheduled_departure", fine))
    plain = "select origin, scheduled_departure as event_timestamp, event_timestamp as available_at"
    copied = replace(LOGS["arrivals"], sql=f"{plain} from flights")
    for log in (copied, LOGS["pending"]):  # its function of instants knows no nanoseconds
        with pytest.raises((SourceError, DeclarationError)) as caught:
            check_events(session, FLIGHTS, log, as_of=TONIGHT)
        assert "cast('timestamp[us, UTC]')" in str(caught.value)
        assert "zone is not stated" not in str(caught.value)


def test_sql_that_duckdb_cannot_run_is_named(session: duckdb.DuckDBPyConnection) -> None:
    """Use case, log, what DuckDB says and the way out; not DuckDB's error alone."""
    text = LOGS["pending"].sql.replace("scheduled_departure", "make_dt_interval(0)", 1)
    with pytest.raises(DeclarationError) as caught:
        check(session, replace(LOGS["pending"], sql=text), row(1, 0))
    for part in ("'flights'", "'pending'", "make_dt_interval", "interval '1' minute"):
        assert part in str(caught.value)


def test_only_what_is_new_is_looked_at_and_what_is_refused_leaves_no_version(
    tmp_path: Path,
) -> None:
    """Each version says what no view of an aircraft sees; a bad fact makes no version."""
    home = Home(root=tmp_path)
    specs = tuple(spec for spec in FLIGHTS.features if spec.view == "tail_arrivals")
    use_case, declared = replace(FLIGHTS, features=specs), FLIGHTS.tables[0]
    july, august = [row(1, 0), row(2, 1), row(3, 2, tailnum=None)], row(4, 31 * 24, tailnum=None)

    first = offline.update(home, use_case, [write_raw(home, declared, flights(*july))])
    assert "; 1 of 3 arrivals have no tail" in first.summary
    tables = [write_raw(home, declared, flights(*july, august))]
    assert offline.update(home, use_case, tables).unkeyed == "1 of 1 arrivals have no tail"

    ahead = row(5, 24 * 365 * 100)
    with pytest.raises(SourceError, match="1 of 1 events become known only after"):
        offline.update(home, use_case, [write_raw(home, declared, flights(*july, august, ahead))])
    head = offline.head(home, use_case)
    assert head is not None
    assert (head.number, head.built.tables) == (2, tables)


@pytest.mark.parametrize("name", ["flights", "weather"])
def test_the_built_in_year_passes(name: str, request: pytest.FixtureRequest) -> None:
    """Every log of both use cases."""
    year: Year = request.getfixturevalue(f"{name}_year")
    said = check_logs(year.use_case, year.tables, ())
    assert {counts.log for counts in said} == {view.log.name for view in year.use_case.views}
    assert all(counts.events > 20_000 for counts in said)
    # The flights that name no aircraft were all cancelled.
    assert not any(map(str, said))
    assert check_logs(year.use_case, year.tables, year.tables) == []
