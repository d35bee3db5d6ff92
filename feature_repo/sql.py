"""From declarations to one SQL text in Spark's dialect, and from there to DuckDB's.

A view's SQL sums events per entity and tick (decimals and integers, so that no order of rows
changes a digit), adds the ticks at which events leave a window, and slides RANGE frames over
the integer tick. No ASOF, no QUALIFY: the text runs as it is on Spark, and through sqlglot on
DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureSpec, FeatureView

if TYPE_CHECKING:
    import sqlglot.expressions as exp

DECIMAL = "decimal(18,3)"
CARRIED = "decimal(38,3)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Which ticks (whole numbers) of a view a query computes, and from what.

    Rows have ``first <= tick <= last``. ``first=None``: from the first event on, from nothing.
    Else the entities' last rows before ``first`` are in the relation ``base_<view>``. With
    ``spans``, both are columns ``lo`` and ``hi`` of the relation ``spans_<view>`` (entity
    keys, disjoint for an entity), and so of the base: only these entities and ticks are computed.
    """

    first: int | None = None
    last: int = 0
    spans: bool = False

    @property
    def values(self) -> dict[str, int]:
        """The values of the markers ``:first`` and ``:last`` in the text."""
        if self.spans:
            return {}
        return {"last": self.last} | ({} if self.first is None else {"first": self.first})


def view_sql(view: FeatureView, tick: timedelta, reach: Reach) -> str:
    """SELECT of a feature view, with its bounds written out; see ``view_text``."""
    text = view_text(view, tick, reach.first is not None, reach.spans)
    for name, value in reach.values.items():
        text = text.replace(f":{name}", str(value))
    return text


@cache
def view_text(view: FeatureView, tick: timedelta, bounded: bool, spans: bool) -> str:
    """SELECT of a feature view: one row per entity and tick at which a feature may change.

    ``:first`` (where it is ``bounded``) and ``:last`` are markers for a ``Reach``.

    Columns: the entity's keys, ``event_timestamp`` (the tick), ``created_timestamp`` (the
    same: when the row could be known), one double per feature, and the sums that go on for ever
    (``view.carried``); ordered by keys and tick.
    """
    group = ", ".join((*view.entity.keys, *(("lo", "hi") if spans else ())))
    keys, seconds = ", ".join(view.entity.keys), seconds_of(tick)
    first, last = ("lo", "hi") if spans else (":first", ":last")
    inside = f"tick <= {last}" + (f" and tick >= {first}" if bounded or spans else "")
    windowed = [f for f in view.features if f.aggregation != "last"]
    lasts = [f for f in view.features if f.aggregation == "last"]
    source = "ticks" if windowed else "lasts"
    if windowed:
        source += f" left join sums using ({group}, tick)"
        source += f" left join lasts using ({group}, tick)" if lasts else ""
    continued = view.continued and (bounded or spans)
    if continued:
        on = f"{keys}, lo" if spans else keys
        source += f" left join base_{view.name} as base using ({on})"
    columns = [
        *(
            f"{_feature(f, group, tick, first, continued, alone=not windowed)} as {f.name}"
            for f in view.features
        ),
        *(f"{total} as {name}" for name, total in _carried(view, group, first, continued)),
    ]
    parts = [
        _events(view, tick, bounded, spans), *_sums(windowed, group), *_lasts(view, lasts, group),
        *_ticks(windowed, group, tick, inside),
        f"filled as (\n  select {group}, tick,\n  " + ",\n  ".join(columns)
        + f"\n  from {source}\n)",
    ]  # fmt: skip
    names = ", ".join((*(f.name for f in view.features), *view.carried))
    return (
        "with " + ",\n".join(parts) + f"\nselect {keys}, "
        f"timestamp_seconds(tick * {seconds}) as event_timestamp, "
        f"timestamp_seconds(tick * {seconds}) as created_timestamp, {names}\n"
        f"from filled where {inside}\norder by {keys}, tick"
    )


def events_sql(view: FeatureView, tick: timedelta) -> str:
    """SELECT of a view's events: the log's columns and ``tick``, the first one at or after
    ``available_at``; events of unknown entities are out."""
    known = " and ".join(f"{key} is not null" for key in view.entity.keys)
    micros = seconds_of(tick) * 1_000_000
    return (
        f"select log.*, (unix_micros(available_at) + {micros - 1}) div {micros} as tick\n"
        f"  from ({view.log.sql}) as log where {known}"
    )


def _events(view: FeatureView, tick: timedelta, bounded: bool, spans: bool) -> str:
    """The events that a window of a wanted tick can see."""
    back, sql = view.reach // tick, events_sql(view, tick)
    if spans:
        keys = ", ".join(view.entity.keys)
        return (
            f"events as (\n  select all_events.*, lo, hi from ({sql}) as all_events\n"
            f"  join spans_{view.name} using ({keys})\n"
            f"  where tick > lo - 1 - {back} and tick <= hi\n)"
        )
    since = f" and tick > :first - 1 - {back}" if bounded else ""
    return f"events as (\n  select * from ({sql}) as all_events\n  where tick <= :last{since}\n)"


def _sums(specs: list[FeatureSpec], group: str) -> list[str]:
    """Events summed per entity and tick: one numerator and one denominator per feature."""
    if not specs:
        return []
    terms: dict[str, str] = {}
    for spec in specs:
        value, weight = spec.value, spec.weight
        product = f"{value} * {weight}" if weight else value
        counted = f"case when {value} is not null then {weight or 1} end"
        for name, term in ((_top(spec), product), (_bottom(spec), counted)):
            total = f"sum(cast({term} as {DECIMAL}))"
            terms[name] = total if _decimal(spec) else f"cast({total} * 1000 as double)"
    columns = ", ".join(f"{total} as {name}" for name, total in terms.items())
    return [
        f"sums as (\n  select {group}, tick, {columns}\n  from events\n  group by {group}, tick\n)"
    ]


def _decimal(spec: FeatureSpec) -> bool:
    """Whether sums stay decimals. In windows, whole thousandths as doubles are as exact (up to
    2**53 of them, 9e12 in the value's unit) and cheaper; instants and endless sums get larger."""
    return spec.window is None or spec.as_age


def _lasts(view: FeatureView, specs: list[FeatureSpec], group: str) -> list[str]:
    """Last known values as of the last event of each entity and tick."""
    if not specs:
        return []
    # One order for both windows: it is sorted once.
    order = ", ".join(("available_at", "event_timestamp", *view.log.tie_break))
    over = f"over (partition by {group} order by {order}"
    columns = ", ".join(
        f"last_value({value}) ignore nulls {over} rows between unbounded preceding and current "
        f"row) as last_{value}"
        for value in dict.fromkeys(f.value for f in specs)
    )
    return [
        f"ordered as (\n  select {group}, tick, {columns},\n    lead(tick) {over}) as following\n"
        "  from events\n)",
        "lasts as (\n  select * from ordered where following is null or following <> tick\n)",
    ]


def _ticks(specs: list[FeatureSpec], group: str, tick: timedelta, inside: str) -> list[str]:
    """Ticks at which a window changes: by an event, or by one that leaves it."""
    if not specs:
        return []
    ticks = [f"select {group}, tick from sums"]
    for ahead in sorted({f.window // tick for f in specs if f.window is not None}):
        moved = inside.replace("tick", f"tick + {ahead}")
        ticks.append(f"select {group}, tick + {ahead} from sums where {moved}")
    # UNION without ALL: each tick once.
    return ["ticks as (\n  " + "\n  union\n  ".join(ticks) + "\n)"]


def _top(spec: FeatureSpec) -> str:
    return f"top_{spec.value}_{spec.weight or 'one'}" + "_decimal" * _decimal(spec)


def _bottom(spec: FeatureSpec) -> str:
    return f"bottom_{spec.value}_{spec.weight or 'one'}" + "_decimal" * _decimal(spec)


def _feature(
    spec: FeatureSpec, group: str, tick: timedelta, first: str, continued: bool, alone: bool
) -> str:
    """One feature's expression over the ticks of its entity; ``alone``: of a view without
    windows, whose ticks are those of its events."""
    if spec.aggregation == "last":
        seen = f"last_{spec.value}"
        if not alone:
            seen = (
                f"last_value({seen}) ignore nulls over (partition by {group} "
                "order by tick rows between unbounded preceding and current row)"
            )
        return (
            f"coalesce(cast({seen} as double), base.{spec.name})"
            if continued
            else (f"cast({seen} as double)")
        )
    if spec.window is None:
        top, bottom = (
            _running(spec, column, group, first, continued) for column in ("top", "bottom")
        )
    else:
        frame = (
            f"(partition by {group} order by tick range between {spec.window // tick - 1} "
            "preceding and current row)"
        )
        unit = "" if _decimal(spec) else " / 1000"
        top, bottom = (f"sum({name}) over {frame}{unit}" for name in (_top(spec), _bottom(spec)))
    if spec.aggregation == "mean":
        return f"cast(({top}) as double) / nullif(cast(({bottom}) as double), 0)"
    return f"coalesce(cast(({bottom if spec.aggregation == 'count' else top}) as double), 0)"


def _running(spec: FeatureSpec, which: str, group: str, first: str, continued: bool) -> str:
    """A sum over all events up to the tick: what was carried, and what came since."""
    column = _top(spec) if which == "top" else _bottom(spec)
    frame = f"(partition by {group} order by tick rows between unbounded preceding and current row)"
    if not continued:
        return f"sum({column}) over {frame}"
    since = f"sum(case when tick >= {first} then {column} end) over {frame}"
    return f"(coalesce({since}, 0) + coalesce(base.{spec.name}_{which}, 0))"


def _carried(
    view: FeatureView, group: str, first: str, continued: bool
) -> Iterator[tuple[str, str]]:
    """The running sums of a view as exact decimals, by their columns' names."""
    for spec in view.features:
        if spec.aggregation != "last" and spec.window is None:
            for which in ("top", "bottom"):
                total = _running(spec, which, group, first, continued)
                yield f"{spec.name}_{which}", f"cast(coalesce({total}, 0) as {CARRIED})"


@cache
def to_duckdb(sql: str) -> str:
    """The same query in DuckDB's dialect; a marker ``:x`` becomes ``$x``."""
    import sqlglot
    import sqlglot.expressions as exp

    def translate(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Anonymous) and node.name.upper() == "TIMESTAMP_SECONDS":
            return exp.Anonymous(this="TO_TIMESTAMP", expressions=node.expressions)
        # Spark's lenient cast would turn an overflow into a null; ours stops instead.
        return exp.Cast(**node.args) if isinstance(node, exp.TryCast) else node

    return sqlglot.parse_one(sql, read="spark").transform(translate).sql("duckdb")


def seconds_of(span: timedelta) -> int:
    """Whole seconds of a span."""
    return span // timedelta(seconds=1)
