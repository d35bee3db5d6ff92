"""A correction computes the ticks that it touches, no more and no fewer; a table of other columns
is computed from the start."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from test_properties import COLUMNS, REQUESTS, SALES, TABLES

from feature_repo.contract import (
    Aggregation,
    Entity,
    EventLog,
    FeatureSpec,
    RequestField,
    UseCase,
)
from feature_repo.corrections import find_changes, find_events, find_spans
from feature_repo.engine import Built, build_views, open_session
from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_raw, write_table
from feature_repo.update import update_views

START = datetime(2013, 3, 30, tzinfo=timezone.utc)
QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def use_case(*sums: tuple[Aggregation, str, timedelta | None], sql: str = SALES) -> UseCase:
    """Features of a shop over its sales."""
    log = EventLog(
        name="sales", sql=sql, tie_break=("serial",), ttl=timedelta(days=9), fresh_within=HOUR
    )
    return UseCase(
        name="shops", description="", owner="", task="regression", label="", unit="",
        intended_use="", limitations="", tables=TABLES, requests_sql=REQUESTS,
        fields=tuple(
            RequestField(name=n, dtype="string", model_input=False) for n in ("shop", "item")
        ),
        derived=(), slices=(), gate=(), tick=QUARTER,
        features=tuple(
            FeatureSpec(
                name=f"f{number}", entity=Entity(name="shop", keys=("shop",)), log=log,
                value=value, aggregation=aggregation, window=window,
            )
            for number, (aggregation, value, window) in enumerate(sums)
        ),
    )  # fmt: skip


def sale(serial: int, tick: float | None, lo: float | None = None) -> dict[str, Any]:
    """A sale of every quarter of an hour, known at once."""
    at = START + serial * QUARTER
    return {
        "serial": serial, "shop": "a", "item": "x", "tick": tick, "lo": lo, "happened": at,
        "reported": at,
    }  # fmt: skip


def stored(home: Home, *sales: dict[str, Any], **more: pa.Array) -> list[Table]:
    """The raw tables; ``more`` are further columns."""
    table = pa.Table.from_pylist(list(sales), pa.schema(list(COLUMNS.items())))
    for name, values in more.items():
        table = table.append_column(name, values)
    asked = pa.table({"request_id": [], "shop": [], "item": [], "asked_at": []})
    instant = pa.timestamp("us", tz="UTC")
    kinds = pa.schema(zip(asked.column_names, [*[pa.string()] * 3, instant], strict=True))
    return [write_raw(home, TABLES[0], table), write_table(home, "asked", asked.cast(kinds))]


def spans(home: Home, case: UseCase, before: Built, tables: list[Table]) -> list[tuple[int, int]]:
    """First and last tick of what is computed anew, in quarters of an hour after ``START``."""
    session, (view,) = open_session(home, case, tables), case.views
    for was, now in zip(before.tables, tables, strict=True):
        find_changes(session, was, now)
    end = before.until // session.seconds
    assert find_events(session, view, end) > 0
    find_spans(session, view, end)
    begin = int(START.timestamp()) // session.seconds
    found = session.connection.sql(f"select _lo, _hi from _spans_{view.name} order by all")
    return [(lo - begin, hi - begin) for lo, hi in found.fetchall()]


LAST: tuple[Aggregation, str, None] = ("last", "tick", None)


@pytest.mark.parametrize(
    ("features", "expected", "differing"),
    [
        ((LAST,), [(3, 3)], 1),
        # A value that no event states does not spread what another one states.
        ((LAST, ("last", "lo", None)), [(3, 3)], 1),
        ((("sum", "tick", HOUR),), [(3, 7)], 4),
        ((("count", "tick", HOUR),), [(3, 7)], 0),
        ((LAST, ("sum", "tick", HOUR)), [(3, 7)], 4),
        ((("sum", "tick", None),), [(3, 19)], 17),
    ],
)
def test_another_value_of_one_event(
    tmp_path: Any, features: Any, expected: list[tuple[int, int]], differing: int
) -> None:
    """The fourth of twenty sales."""
    home, case = Home(root=tmp_path), use_case(*features)
    sales = [sale(serial, float(serial)) for serial in range(20)]
    before = build_views(home, case, stored(home, *sales))
    sales[3] = sale(3, 1000.0)
    tables = stored(home, *sales)
    assert spans(home, case, before, tables) == expected
    made = update_views(home, case, tables, before, None)
    assert made.corrected == differing
    assert (made.added, made.rebuilt) == (0, 0)
    assert made.built == build_views(home, case, tables)


def test_a_value_that_was_withdrawn_spreads_to_the_next_that_is_stated(tmp_path: Any) -> None:
    """Its own tick and those of events that state nothing."""
    home, case = Home(root=tmp_path), use_case(LAST)
    sales = [sale(serial, float(serial) if serial not in (4, 5) else None) for serial in range(20)]
    before = build_views(home, case, stored(home, *sales))
    sales[3] = sale(3, None)
    tables = stored(home, *sales)
    assert spans(home, case, before, tables) == [(3, 5)]
    assert update_views(home, case, tables, before, None).corrected == 3


def test_a_raw_table_with_another_column_is_read_from_the_start(tmp_path: Any) -> None:
    """Its rows cannot be compared with those of before; the views are the same bytes."""
    home, case = Home(root=tmp_path), use_case(LAST, ("sum", "tick", HOUR))
    sales = [sale(serial, float(serial)) for serial in range(20)]
    before = build_views(home, case, stored(home, *sales))
    made = update_views(home, case, stored(home, *sales, colour=pa.nulls(20)), before, None)
    assert made.rebuilt == 1
    assert made.built.views == before.views


def test_a_log_that_looks_at_other_rows_is_read_from_the_start(tmp_path: Any) -> None:
    """A sale that a later one of the same item undoes: each is no map of a row alone."""
    sql = SALES + " as s where not exists (select 1 from entities as o where o.lo = s.serial)"
    home, case = Home(root=tmp_path), use_case(("count", "tick", None), sql=sql)
    sales = [sale(serial, float(serial)) for serial in range(3)]
    before = build_views(home, case, stored(home, *sales))
    tables = stored(home, *sales, sale(3, 3.0, lo=1.0))
    made = update_views(home, case, tables, before, None)
    assert made.built == build_views(home, case, tables)
    assert read_table(made.built.views[0])["f0"].to_pylist() == [1.0, 2.0, 3.0]


def test_strings_can_be_counted_for_ever(tmp_path: Any) -> None:
    home, case = Home(root=tmp_path), use_case(("count", "item", None))
    built = build_views(home, case, stored(home, *(sale(serial, 1.0) for serial in range(3))))
    assert read_table(built.views[0])["f0"].to_pylist() == [1.0, 2.0, 3.0]
