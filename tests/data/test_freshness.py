"""Freshness promises of the event logs: kept on a normal day, broken by name otherwise."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from conftest import Year

from feature_repo.errors import FreshnessError
from feature_repo.freshness import hours, measure
from feature_repo.lineage import tables_of
from feature_repo.registry import USE_CASES
from tasks.freshness import check_freshness
from tasks.types import State


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=timezone.utc)  # type: ignore[arg-type, misc]


def state(year: Year) -> State:
    return State(str(year.home.root), year.home.id)


def test_a_log_names_its_raw_tables() -> None:
    for use_case in USE_CASES.values():
        for view in use_case.views:
            expected = ("weather",) if "temp" in view.log.sql else ("flights",)
            assert tables_of(view.log) == expected


def test_a_promise_is_no_part_of_the_declaration() -> None:
    """A model does not read it: another promise leaves feature service and models as they are."""
    flights = USE_CASES["flights"]
    changed = [
        replace(f, log=replace(f.log, fresh_within=timedelta(days=9))) for f in flights.features
    ]
    assert replace(flights, features=tuple(changed)).declaration == flights.declaration
    slower = [replace(f, log=replace(f.log, ttl=timedelta(days=9))) for f in flights.features]
    assert replace(flights, features=tuple(slower)).declaration != flights.declaration


def test_a_normal_night_keeps_every_promise(flights_year: Year) -> None:
    fresh = check_freshness(
        state=state(flights_year), use_case="flights", tables=flights_year.tables,
        as_of=utc(2013, 12, 12, 8, 5),
    )  # fmt: skip
    ages = {f.log: f.age_minutes for f in fresh.logs}
    assert set(ages) == {view.log.name for view in flights_year.use_case.views}
    assert ages["weather"] == 5.0
    assert all(f.kept for f in fresh.logs)
    assert "every promise kept as of 2013-12-12T08:05:00Z" in fresh.step.message


def test_the_storm_of_february_breaks_a_promise_by_name(flights_year: Year) -> None:
    """No departure for 15 hours; weather went on being observed."""
    with pytest.raises(FreshnessError) as caught:
        check_freshness(
            state=state(flights_year), use_case="flights", tables=flights_year.tables,
            as_of=utc(2013, 2, 9, 10),
        )  # fmt: skip
    said = str(pickle.loads(pickle.dumps(caught.value)))  # noqa: S301 - our own error
    assert "log 'departures' of the raw table 'flights' is 11 h 17 min old" in said
    assert "promised 7 h" in said
    assert "weather" not in said


def test_the_data_s_own_end_is_told_from_what_is_missing(flights_year: Year) -> None:
    """The year's weather ends a day before its flights do, and nothing is known before it began."""
    end = {f.log: f for f in measure(flights_year.use_case, flights_year.tables, utc(2014, 1, 1))}
    assert not end["weather"].kept
    assert end["weather"].newest == "2013-12-31T00:00:00Z"
    assert all(f.kept for name, f in end.items() if name != "weather")
    before = measure(flights_year.use_case, flights_year.tables, utc(2012, 1, 1))
    assert all(f.newest == "" and not f.kept for f in before)


def test_hours_read_well() -> None:
    assert [hours(m) for m in (180, 1125, 5.2)] == ["3 h", "18 h 45 min", "0 h 5 min"]
