"""From the one SQL text, in Spark's dialect, to DuckDB's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlglot.expressions as exp

RUNNING = "_running"  # a window that ``tuned`` knows; no log's SQL names one so
MICROSECONDS = {"SECOND": 1_000_000, "MINUTE": 60_000_000, "HOUR": 3_600_000_000}


@cache
def to_duckdb(sql: str) -> str:
    """The same query, word by word; a marker ``:x`` becomes ``$x``."""
    return _translated(sql).sql("duckdb")


@cache
def tuned(sql: str) -> str:
    """The same query, with what DuckDB is slow at replaced by what means the same and is not.

    For SQL whose instants are in UTC, as ``check_events`` has it: a clock without a zone would
    become one in UTC, where ``to_duckdb`` leaves it what it is.
    """
    import sqlglot.expressions as exp

    tree = _translated(sql)
    # Inner ones first: an outer one is replaced with what it holds.
    for node in reversed(list(tree.find_all(exp.Add, exp.Sub))):
        _as_microseconds(node)
    for select in tree.find_all(exp.Select):
        _streamed(select)
    return tree.sql("duckdb")


def differing(query: exp.Expr) -> str:
    """What in a query the engines compute differently, in Spark's words; empty where nothing is.

    A fraction cast to a whole number is cut on Spark and rounded on DuckDB, and ``div`` cuts on
    Spark alone.
    """
    import sqlglot.expressions as exp

    for node in query.find_all(exp.Cast, exp.IntDiv):
        if isinstance(node, exp.IntDiv) or node.args["to"].this in exp.DataType.INTEGER_TYPES:
            return node.sql("spark")
    return ""


def _translated(sql: str) -> exp.Expr:
    import sqlglot
    import sqlglot.expressions as exp

    tree = sqlglot.parse_one(sql, read="spark")
    for node in list(tree.find_all(exp.Anonymous)):
        if node.name.upper() == "TIMESTAMP_SECONDS":
            node.set("this", "TO_TIMESTAMP")
    # Spark's lenient cast would turn an overflow into a null; ours stops instead.
    for lenient in list(tree.find_all(exp.TryCast)):
        lenient.replace(exp.Cast(**lenient.args))
    return tree


def _as_microseconds(node: exp.Expr) -> None:
    """``instant + number * interval '1' minute`` by whole microseconds since the epoch: the
    calendar, which DuckDB asks for each row, has no say in seconds, minutes and hours."""
    import sqlglot.expressions as exp

    instant, span = node.this, node.expression
    number = None
    if isinstance(span, exp.Mul):
        number, span = span.this, span.expression
    length = MICROSECONDS.get(span.text("unit").upper()) if isinstance(span, exp.Interval) else None
    if length is None or not span.this.name.isdigit():
        return
    micros: exp.Expression = exp.Literal.number(int(span.this.name) * length)
    if number is not None:
        product = exp.Mul(this=exp.Paren(this=number.copy()), expression=micros)
        micros = exp.cast(product, "bigint")
    before = exp.Anonymous(this="EPOCH_US", expressions=[instant.copy()])
    moved = type(node)(this=before, expression=micros)
    node.replace(exp.Anonymous(this="MAKE_TIMESTAMPTZ", expressions=[moved]))


def _streamed(select: exp.Select) -> None:
    """The window ``RUNNING``, of sums that come to zero at the end of each partition: over rows
    that are sorted first, one pass sums all partitions up. DuckDB keeps the order of a sorted
    subquery under an OVER without one (its documentation calls that order preservation)."""
    import sqlglot.expressions as exp

    windows = select.args.get("windows") or []
    if [window.name for window in windows] != [RUNNING]:
        return
    (running,), rows = windows, select.args["from_"]
    select.set("windows", None)
    keys = [*running.args["partition_by"], *running.args["order"].expressions]
    ordered = exp.select("*").from_(rows.this).order_by(*keys)
    rows.set("this", ordered.subquery("ordered"))
    for window in select.find_all(exp.Window):
        window.set("alias", None)
        if isinstance(window.this, exp.Sum):
            frame = {"start": "UNBOUNDED", "start_side": "PRECEDING", "end": "CURRENT ROW"}
            window.set("spec", exp.WindowSpec(kind="ROWS", **frame))
