"""Which parts of a raw table hold the events of a span of time.

A log whose SQL maps rows of one raw table, each for itself, has a zone for each of the table's
parts: the first and last instant of its events. Other logs (joins, aggregates) have none, and
every part counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from feature_repo.dialect import tuned
from feature_repo.duckdb_session import FILE, bind

if TYPE_CHECKING:
    import duckdb
    import sqlglot.expressions as exp


class Zone(NamedTuple):
    """First and last instant (epoch seconds) of a part's events, and how many there are."""

    first: int
    last: int
    events: int


Zones = Mapping[str, Zone]  # by the part's file name, which holds its digest


@cache
def mapped_table(sql: str) -> str | None:
    """The one table that a SELECT (Spark's dialect) maps row by row; None if it does more."""
    import sqlglot
    import sqlglot.expressions as exp

    tree = sqlglot.parse_one(sql, read="spark")
    # A SELECT elsewhere (exists, in, a scalar) looks at other rows than its own.
    places = (select.parent for select in tree.find_all(exp.Select))
    if not all(_is_arm(place) for place in places):
        return None
    if tree.find(
        exp.Join, exp.Group, exp.Window, exp.Distinct, exp.AggFunc, exp.Limit, exp.Intersect,
        exp.Except, exp.Lateral, exp.With,
    ):  # fmt: skip
        return None
    if any(union.args.get("distinct") for union in tree.find_all(exp.Union)):
        return None
    tables = {table.name for table in tree.find_all(exp.Table)}
    return tables.pop() if len(tables) == 1 else None


def _is_arm(place: exp.Expr | None) -> bool:
    """Whether a SELECT there is the query, an arm of a UNION or what a FROM reads."""
    import sqlglot.expressions as exp

    while isinstance(place, exp.Subquery):
        place = place.parent
    return place is None or isinstance(place, exp.From | exp.Union)


def find_zones(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    instant: str,
    files: Sequence[Path],
    known: Zones,
) -> Zones:
    """The zone of each file of the table that ``sql`` maps, by ``instant`` (a column of it).

    ``known`` ones are taken over. Files without an event have no zone.
    """
    table = mapped_table(sql)
    fresh = [file for file in files if file.name not in known]
    found = {file.name: known[file.name] for file in files if file.name in known}
    if table is None or not fresh:
        return found
    bind(connection, table, fresh, filename=True)
    with_file = with_column(sql, FILE)
    rows = connection.execute(
        f"select {FILE}, cast(floor(epoch(min({instant}))) as bigint), "
        f"cast(ceil(epoch(max({instant}))) as bigint), count(*) from ({with_file}) as log "
        f"where {instant} is not null group by {FILE}"
    ).fetchall()
    return found | {Path(name).name: Zone(*rest) for name, *rest in rows}


def overlapping(files: Sequence[Path], zones: Zones, first: float, last: float) -> list[Path]:
    """The files that may hold events in ``first`` to ``last`` (epoch seconds); at least one."""
    if not zones:
        return list(files)
    near = [
        file
        for file in files
        if (zone := zones.get(file.name)) and zone.first <= last and zone.last >= first
    ]
    return near or list(files[:1])


def bounds(zones: Iterable[Zones]) -> tuple[int, int]:
    """First and last instant of several zones; (0, 0) without any."""
    every = [zone for found in zones for zone in found.values()]
    return min((z.first for z in every), default=0), max((z.last for z in every), default=0)


@cache
def with_column(sql: str, name: str) -> str:
    """A SELECT that maps one table, in DuckDB's dialect, with one more of the table's columns."""
    import sqlglot
    import sqlglot.expressions as exp

    tree = sqlglot.parse_one(tuned(sql), read="duckdb")
    for select in tree.find_all(exp.Select):
        select.select(name, append=True, copy=False)
    return tree.sql("duckdb")
