"""What a stored table holds, column by column: nulls, range, distribution; from its files alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from feature_repo.duckdb_session import connect
from feature_repo.tables import Table

if TYPE_CHECKING:
    import duckdb

BINS = 40
TOP = 8
TAIL = 0.005  # of each end, left out of a histogram: one outlier must not flatten the rest
Kind = Literal["number", "age", "string", "instant", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnProfile:
    """One column. ``low`` and ``high`` are its smallest and largest value, as text; ``distinct``
    values are counted of strings. An ``age`` is an instant in epoch seconds, drawn as minutes up
    to the row's tick.

    ``bars``: what to draw. Numbers: (lower edge, rows) of bins ``width`` wide; strings: (value,
    rows) of the most frequent ones; instants: (month, rows). ``outside``: rows not drawn.
    """

    name: str
    type: str
    kind: Kind
    rows: int
    nulls: int
    distinct: int
    low: str
    high: str
    bars: tuple[tuple[str | float, int], ...]
    width: float = 0.0
    outside: int = 0

    @property
    def null_share(self) -> float:
        """Nulls among rows; 0 for a table without rows."""
        return self.nulls / self.rows if self.rows else 0.0


def profile(
    table: Table, columns: Sequence[str] = (), ages: Collection[str] = ()
) -> tuple[ColumnProfile, ...]:
    """Columns of a table (all of them, in its order); the same table gives the same profile."""
    with connect([table]) as session:
        types = {
            str(name): str(type_)
            for name, type_, *_ in session.execute(f'DESCRIBE "{table.name}"').fetchall()
        }
        return tuple(
            _column(session, table, name, types[name], name in ages) for name in columns or types
        )


def _column(
    session: duckdb.DuckDBPyConnection, table: Table, name: str, type_: str, age: bool
) -> ColumnProfile:
    kind: Kind = "age" if age else _kind(type_)
    column = f'(epoch(event_timestamp) - "{name}") / 60' if age else f'"{name}"'
    distinct = f"count(DISTINCT {column})" if kind == "string" else "0"
    known, distinct, low, high = session.execute(
        f"SELECT count({column}), {distinct}, (min({column}))::VARCHAR, "
        f'(max({column}))::VARCHAR FROM "{table.name}"'
    ).fetchall()[0]
    facts: dict[str, Any] = {"bars": ()}
    if known and kind in {"number", "age"}:
        facts = _histogram(session, table, column)
    elif known and kind in {"string", "instant"}:
        facts = {"bars": _counts(session, table, column, kind)}
    drawn = sum(rows for _, rows in facts["bars"])
    return ColumnProfile(
        name=name,
        type=_type(type_),
        kind=kind,
        rows=table.rows,
        nulls=table.rows - known,
        distinct=distinct,
        low=low or "",
        high=high or "",
        outside=known - drawn,
        **facts,
    )


def _kind(type_: str) -> Kind:
    if type_.startswith("TIMESTAMP") or type_ == "DATE":
        return "instant"
    if type_ in {"DOUBLE", "FLOAT"} or "INT" in type_ or type_.startswith("DECIMAL"):
        return "number"
    return "string" if type_ == "VARCHAR" else "other"


def _type(type_: str) -> str:
    """The type in plain words."""
    if type_.startswith("TIMESTAMP"):
        return "instant, UTC"
    return {"VARCHAR": "string", "DOUBLE": "number", "BIGINT": "whole number"}.get(
        type_, type_.lower()
    )


def _histogram(session: duckdb.DuckDBPyConnection, table: Table, column: str) -> dict[str, Any]:
    """Bins of a round width, whole where the values are, without the outermost rows."""
    low, high, whole = session.execute(
        f"SELECT quantile_disc(({column})::DOUBLE, {TAIL}), "
        f"quantile_disc(({column})::DOUBLE, {1 - TAIL}), "
        f'coalesce(bool_and({column} = floor({column})), true) FROM "{table.name}"'
    ).fetchall()[0]
    width = _round_width((high - low) / BINS, whole)
    start = math.floor(low / width)
    bins = math.floor(high / width) - start + 1
    found = dict(
        session.execute(
            f"SELECT floor(({column}) / {width})::BIGINT - {start} AS bin, count(*) "
            f'FROM "{table.name}" WHERE {column} IS NOT NULL GROUP BY bin '
            f"HAVING bin BETWEEN 0 AND {bins - 1}"
        ).fetchall()
    )
    bars = tuple(((start + i) * width, int(found.get(i, 0))) for i in range(bins))
    return {"bars": bars, "width": width}


def _round_width(width: float, whole: bool) -> float:
    """The next 1, 2 or 5 times a power of ten, and at least 1 for whole numbers."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    rounded = next(step * power for step in (1, 2, 5, 10) if step * power >= width * (1 - 1e-9))
    return max(rounded, 1.0) if whole else rounded


def _counts(
    session: duckdb.DuckDBPyConnection, table: Table, column: str, kind: Kind
) -> tuple[tuple[str, int], ...]:
    by_month = kind == "instant"
    value = f"strftime({column}, '%Y-%m')" if by_month else column
    rows = session.execute(
        f'SELECT {value} AS value, count(*) AS n FROM "{table.name}" WHERE {column} IS NOT NULL '
        f"GROUP BY value ORDER BY {'value' if by_month else f'n DESC, value LIMIT {TOP}'}"
    ).fetchall()
    return tuple((str(value), int(n)) for value, n in rows)
