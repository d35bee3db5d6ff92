"""Declarations that cannot work are refused when they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from contract_helpers import hour, refused

from feature_repo.contract import (
    DerivedInput,
    Entity,
    FeatureSpec,
    RawTable,
    RequestField,
    UseCase,
)
from feature_repo.model import AuxiliaryTargets
from feature_repo.registry import USE_CASES, by_name, get_use_case
from feature_repo.sql_checks import check_sql

FLIGHTS = get_use_case("flights")
FIRST = FLIGHTS.features[0]
LAST = next(spec for spec in FLIGHTS.features if spec.aggregation == "last")
WINDOWED = next(spec for spec in FLIGHTS.features if spec.view == "origin_arrivals")


def with_feature(spec: FeatureSpec, **changes: Any) -> Callable[[], UseCase]:
    """FLIGHTS with one changed feature and no other."""
    return lambda: replace(FLIGHTS, features=(replace(spec, **changes),))


def with_log(spec: FeatureSpec, **changes: Any) -> Callable[[], UseCase]:
    """FLIGHTS with one feature over a changed log."""
    return with_feature(spec, log=replace(spec.log, **changes))


def bare_sql(*columns: str) -> str:
    """A log's SELECT of these columns."""
    return f"select {', '.join(columns)} from flights"


GATE = Entity(name="gate", keys=("gate",))
OTHER_ORIGIN = Entity(name="origin", keys=("origin", "carrier"))
OTHER_LOG = replace(WINDOWED.log, ttl=timedelta(days=1))
KEYS = ("origin", "dest", "carrier", "flight")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: replace(FLIGHTS, features=(FIRST, FIRST)), (FIRST.name, "twice", "rename")),
        (
            lambda: replace(FLIGHTS, derived=(DerivedInput(name="origin", function=hour),)),
            ("'origin'", "twice"),
        ),
        (with_feature(FIRST, name="Mean delay"), ("'Mean delay'", "stand in SQL", "letters")),
        *(
            (with_feature(FIRST, name=name), (f"'{name}'", "reserved", "rename"))
            for name in ("tick", "label", "event_timestamp", "created_timestamp", "split")
        ),
        *(
            (with_feature(WINDOWED, name=name), (f"'{name}'", "collides with a source column"))
            for name in ("late", "at", "date")
        ),
        (with_feature(FIRST, name="dest"), ("'dest'", "twice")),
        (
            lambda: replace(FLIGHTS, fields=(*FLIGHTS.fields, RequestField(
                name="request_id", dtype="string"))),
            ("'request_id'", "reserved"),
        ),
        (
            lambda: replace(FLIGHTS, features=(
                FIRST, replace(FIRST, name="other", entity=OTHER_ORIGIN))),
            ("entity 'origin'", "differ", "rename"),
        ),
        (
            lambda: replace(FLIGHTS, features=(
                WINDOWED, replace(WINDOWED, name="other", log=OTHER_LOG))),
            (f"event log {WINDOWED.log.name!r}", "differ", "rename"),
        ),
        (lambda: replace(FLIGHTS, slices=("altitude",)), ("altitude", "no request field")),
        (with_feature(FIRST, entity="gate"), ("entity 'gate' is unknown", "declare an Entity")),
        (with_feature(FIRST, log="landings"), ("log 'landings' is unknown", "an EventLog")),
        (with_feature(FIRST, aggregation="median"), ("'median'", "count, sum, mean, last")),
        (with_feature(WINDOWED, window=3), ("window 3", "no timedelta")),
        (with_feature(FIRST, entity=GATE), (FIRST.name, "'gate'", "add it to fields")),
        (with_feature(FIRST, entity=Entity(name="all", keys=())), ("'all'", "has no key")),
        (
            with_log(FIRST, sql=bare_sql(*KEYS, "delta", "event_timestamp")),
            (FIRST.name, "'pending'", "'available_at'", "the future leaks", "SELECT"),
        ),
        (
            with_log(FIRST, sql=bare_sql(*KEYS, "delta", "available_at")),
            (FIRST.name, "'pending'", "'event_timestamp'", "when the fact happened"),
        ),
        (with_feature(FIRST, value="waiting"), (FIRST.name, "value 'waiting'", "not yield")),
        (
            with_feature(WINDOWED, aggregation="mean", weight="seats"),
            (WINDOWED.name, "weight 'seats'", "not yield"),
        ),
        (with_log(FIRST, tie_break=("serial",)), (FIRST.name, "tie-break 'serial'")),
        (
            with_feature(FIRST, entity=Entity(name="tail", keys=("tailnum",))),
            (FIRST.name, "key of entity 'tail' 'tailnum'", "'pending'", "not yield"),
        ),
        (with_feature(LAST, window=timedelta(hours=1)), (LAST.name, "no window", "ttl")),
        (
            with_feature(WINDOWED, window=timedelta(minutes=20)),
            (WINDOWED.name, "0:20:00", "multiple of the tick"),
        ),
        (
            with_feature(WINDOWED, window=timedelta(minutes=5)),
            (WINDOWED.name, "shorter than the tick of 0:15:00", "multiple of the tick"),
        ),
        (with_feature(WINDOWED, window=-timedelta(hours=1)), (WINDOWED.name, "shorter")),
        (with_feature(FIRST, decimals=19), (FIRST.name, "decimals 19", "0 to 18")),
        (
            lambda: replace(FLIGHTS, features=(FIRST, replace(FIRST, name=f"{FIRST.name}_top"))),
            (f"'{FIRST.name}_top'", "carries on", "rename"),
        ),
        (
            lambda: replace(FLIGHTS, tables=(*FLIGHTS.tables, RawTable(name="_held", key=()))),
            ("raw table '_held'", "cannot stand in SQL"),
        ),
        (with_feature(FIRST, bounds=(1.0, 0.0)), (FIRST.name, "(1.0, 0.0)", "reversed")),
        (with_feature(FIRST, bounds=(float("nan"), 1.0)), (FIRST.name, "not numbers")),
        (
            lambda: replace(FLIGHTS, fields=(
                *FLIGHTS.fields, RequestField(name="seats", dtype="number", bounds=(9, 1)))),
            ("'seats'", "(9, 1)", "reversed"),
        ),
        *(
            (
                with_feature(LAST, aggregation=aggregation, weight=LAST.value),
                (LAST.name, f"'{aggregation}' takes no weight", "drop it"),
            )
            for aggregation in ("count", "last")
        ),
        (lambda: replace(FLIGHTS, lag=timedelta(minutes=-5)), ("'flights'", "lag", "negative")),
        (
            lambda: replace(FLIGHTS, lag=timedelta(seconds=1.5)),
            ("'flights'", "lag", "whole number of seconds", "round it"),
        ),
        (
            lambda: replace(FLIGHTS, task="regression"),
            ("auxiliary targets", "yes-or-no label", "leave them out"),
        ),
        *(
            (
                lambda above=above: replace(FLIGHTS, auxiliary=AuxiliaryTargets(
                    column="arr_delay", above=above)),
                ("auxiliary targets", "finite numbers that rise"),
            )
            for above in ((), (5.0, 5.0), (30.0, 15.0), (15.0, float("inf")))
        ),
        (
            lambda: replace(FLIGHTS, auxiliary=AuxiliaryTargets(column="dest", above=(1.0,))),
            ("'dest'", "auxiliary measure's", "rename"),
        ),
        (with_feature(FIRST, name="arr_delay"), ("'arr_delay'", "auxiliary measure's", "rename")),
        (lambda: replace(FLIGHTS, tick=timedelta(0)), ("'flights'", "tick", "above zero")),
        (lambda: get_use_case("trains"), ("'trains'", "flights, weather", "registry.py")),
    ],
)  # fmt: skip
def test_refused(make: Callable[[], UseCase], parts: tuple[str, ...]) -> None:
    """When the use case is made, before anything runs."""
    refused(make, *parts)


def test_two_use_cases_of_one_name_are_refused() -> None:
    """The second would hide the first; one that is imported twice is one."""
    refused(lambda: by_name([FLIGHTS, replace(FLIGHTS, label="later")]), "'flights'", "rename")
    assert by_name([FLIGHTS, FLIGHTS, 1]) == {"flights": FLIGHTS}


def test_a_view_is_no_raw_table() -> None:
    """Entity and log name the view: it must not hide what the log reads."""
    log = replace(FIRST.log, name="status")
    spec = replace(FIRST, entity=Entity(name="flight", keys=("origin",)), log=log)
    tables = (*FLIGHTS.tables, RawTable(name="flight_status", key=("flight",)))
    refused(lambda: replace(FLIGHTS, features=(spec,), tables=tables), "'flight_status'", "raw")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        # Named in a comment only: the parser is not fooled.
        (
            {"sql": bare_sql(*KEYS, "delta", "scheduled", "event_timestamp") + " -- available_at"},
            ("'pending'", "'available_at'", "the future leaks"),
        ),
        ({"sql": f"select *, 1 as delta from ({FIRST.log.sql})"}, ("'pending'", "name the col")),
        ({"sql": FIRST.log.sql.replace("from flights", "from fleet")}, ("'fleet'", "to tables")),
        ({"sql": FIRST.log.sql.replace("select", "choose")}, ("'pending'", "cannot be parsed")),
        ({"sql": FIRST.log.sql.replace("1.0D", "rand()")}, ("RAND()", "something else each time")),
        ({"sql": FIRST.log.sql.replace("1.0D", "cast(2.7 as int)")}, ("CAST(2.7 AS INT)", "floor")),
        ({"sql": FIRST.log.sql.replace("1.0D", "27 div 10")}, ("'pending'", "rounded on DuckDB")),
        ({"sql": FIRST.log.sql.replace("1.0D", "unix_seconds(now())")}, ("NOW()", "raw table")),
        (
            {"sql": FIRST.log.sql.replace("as scheduled", "as scheduled, 1 as _tick")},
            ("'pending'", "'_tick'", "begins with _"),
        ),
        ({"sql": f"-- {FIRST.log.sql.split()}\ndrop table flights"}, ("no SELECT",)),
    ],
)
def test_the_sql_of_a_log_is_held_against_its_features(
    changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    """What only a parser can tell, in the first step of a run."""
    refused(lambda: check_sql(with_log(FIRST, **changes)()), "'flights'", *parts)


def test_the_sql_of_the_requests_is_held_against_the_fields() -> None:
    """A field that no request states."""
    field = RequestField(name="seats", dtype="number")
    use_case = replace(FLIGHTS, fields=(*FLIGHTS.fields, field))
    refused(lambda: check_sql(use_case), "requests_sql", "'seats'", "add it to the SELECT")


def test_the_sql_of_the_requests_is_held_against_the_auxiliary_targets() -> None:
    """What the label was cut from must be told beside it."""
    use_case = replace(FLIGHTS, auxiliary=AuxiliaryTargets(column="taxi_in", above=(5.0,)))
    refused(lambda: check_sql(use_case), "requests_sql", "'taxi_in'", "add it to the SELECT")


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_every_registered_use_case_yields_what_it_reads(use_case: UseCase) -> None:
    """The exact check of the SQL, without data."""
    check_sql(use_case)


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_every_feature_is_described_and_bounded(use_case: UseCase) -> None:
    """A card and a data contract without gaps."""
    for spec in use_case.features:
        assert spec.description
        assert np.isfinite(spec.bounds).all(), spec.name
    assert all(field.description for field in use_case.fields)
