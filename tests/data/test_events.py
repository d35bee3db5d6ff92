"""Event logs that cannot be true are refused with the events at fault; nothing is lost silently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from conftest import Year

from feature_repo.contract import EventLog, UseCase
from feature_repo.errors import SourceError
from feature_repo.events import EventCounts, check_events
from feature_repo.registry import get_use_case
from feature_repo.tables import connect

FLIGHTS = get_use_case("flights")
LOGS = {view.log.name: view.log for view in FLIGHTS.views}
NOON = datetime(2013, 7, 1, 12, tzinfo=timezone.utc)
TONIGHT = NOON + timedelta(hours=12)


def row(flight: int, hours: float, **other: Any) -> dict[str, Any]:
    """A flight on time, hours from noon."""
    departure = NOON + timedelta(hours=hours)
    times = {"scheduled_departure": departure, "scheduled_arrival": departure + timedelta(hours=2)}
    keys = {"carrier": "UA", "flight": str(flight), "origin": "EWR", "dest": "IAH", "tailnum": "N1"}
    return keys | times | {"dep_delay": 0.0, "arr_delay": 0.0} | other


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
    """The log held against these flights; instants are in ``zone``, or in no zone."""
    table = pa.Table.from_pylist(list(rows))
    for name in ("scheduled_departure", "scheduled_arrival"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].cast(pa.timestamp("us", tz=zone)))
    session.register("flights", table)
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


@pytest.mark.parametrize("name", ["arrivals", "pending"])
def test_a_clock_without_a_zone_is_not_taken_for_utc(
    session: duckdb.DuckDBPyConnection, name: str
) -> None:
    """A raw table whose instants state no zone."""
    said = refused(session, LOGS[name], row(1, 0), zone=None)
    assert "event_timestamp is TIMESTAMP, not an instant in UTC" in said


@pytest.mark.parametrize("name", ["flights", "weather"])
def test_the_built_in_year_passes(name: str, request: pytest.FixtureRequest) -> None:
    """Every log of both use cases."""
    year: Year = request.getfixturevalue(f"{name}_year")
    said = _counts(year.use_case, year)
    assert all(counts.events > 20_000 for counts in said.values())
    # The flights that name no aircraft were all cancelled.
    assert not any(str(counts) for counts in said.values())


def _counts(use_case: UseCase, year: Year) -> dict[str, EventCounts]:
    logs = {view.log.name: view.log for view in use_case.views}
    with connect(year.tables) as connection:
        now = datetime.now(timezone.utc)
        return {n: check_events(connection, use_case, log, now) for n, log in logs.items()}
