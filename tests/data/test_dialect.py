"""What DuckDB is asked means what the text in Spark's dialect says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.dialect import RUNNING, to_duckdb, tuned

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=25)
INSTANTS = st.one_of(
    st.none(), st.integers(-(10**16), 10**16).map(lambda micros: EPOCH + timedelta(0, 0, micros))
)
NUMBERS = st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-3000, 3000).map(float))
SPANS = ("interval '1' minute", "interval '90' second", "interval '3' hour", "interval '2' day")


PLUS_MINUS = ((0, 1), (2, -1))
SCHEMA = pa.schema([("who", pa.int64()), ("tick", pa.int64()), ("x", pa.int64())])


def rows(sql: str, table: pa.Table) -> list[tuple[object, ...]]:
    """The answer, in a session in UTC that knows ``table``."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("facts", table)
        return connection.execute(sql).fetchall()


@PROPERTY
@given(st.lists(st.tuples(INSTANTS, NUMBERS), min_size=1, max_size=20))
def test_instants_moved_by_microseconds_are_the_calendars(
    facts: Sequence[tuple[datetime | None, float | None]],
) -> None:
    """Fractions, nulls, either sign, one span after another, across changes of the clocks."""
    table = pa.table(
        {
            "at": pa.array([at for at, _ in facts], pa.timestamp("us", tz="UTC")),
            "number": pa.array([number for _, number in facts], pa.float64()),
        }
    )
    columns = [f"at {sign} {span}" for sign in "+-" for span in SPANS]
    columns += [f"at + number * {span} - interval '15' minute" for span in SPANS]
    sql = f"select {', '.join(columns)} from facts"
    assert "MAKE_TIMESTAMPTZ" in tuned(sql)
    assert rows(tuned(sql), table) == rows(to_duckdb(sql), table)


@PROPERTY
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.integers(-9, 9)), max_size=30))
def test_one_pass_sums_up_every_partition(steps: list[tuple[int, int, int]]) -> None:
    """What comes leaves again; ties, and entities of one tick beside each other."""
    every = [(who, tick + late, sign * x) for who, tick, x in steps for late, sign in PLUS_MINUS]
    table = pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, step, strict=True)) for step in every], SCHEMA
    )
    sql = f"""
      with slid as (
        select who, tick, sum(cast(x as decimal(18,3))) over {RUNNING} as inside,
          lead(who) over {RUNNING} as next_who, lead(tick) over {RUNNING} as next_tick
        from facts window {RUNNING} as (partition by who order by tick))
      select who, tick, inside from slid
      where next_who is null or next_who <> who or next_tick <> tick order by who, tick
    """
    assert "PARTITION" not in tuned(sql)
    assert rows(tuned(sql), table) == rows(to_duckdb(sql), table)


@pytest.mark.parametrize("translated", [to_duckdb, tuned])
def test_a_cast_that_overflows_stops_the_query(translated: Callable[[str], str]) -> None:
    """A cast within a cast, too: a null would silently leave the value out."""
    table = pa.table({"x": [1.0, 1e17]})
    with pytest.raises(duckdb.ConversionException, match="Could not cast value 1000"):
        rows(translated("select cast(sum(cast(x as decimal(18,3))) as double) from facts"), table)


def test_a_clock_without_a_zone_is_not_taken_for_utc() -> None:
    """The plain translation leaves it what it is, so that the checks of event logs see it."""
    table = pa.table({"at": pa.array([datetime(2013, 1, 1)], pa.timestamp("us"))})  # noqa: DTZ001 - the point
    sql = to_duckdb("select at + 2 * interval '1' minute as moved from facts")
    assert rows(f"select typeof(moved) from ({sql})", table) == [("TIMESTAMP",)]


def test_a_window_of_a_logs_own_stays_what_it_is() -> None:
    """Its sums need not come to zero in the end."""
    table = pa.table({"who": [0, 0, 1], "x": [1, 2, 5]})
    named = "window running as (partition by who order by x)"
    sql = f"select who, sum(x) over running as so_far from facts {named}"
    assert sorted(rows(tuned(sql), table)) == [(0, 1), (0, 3), (1, 5)]
