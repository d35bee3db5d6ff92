"""From declarations to one SQL text in Spark's dialect.

A view's SQL sums events per entity and tick, in decimals, so that no order of rows changes a
digit. What comes at a tick leaves a window some ticks later: each window is a running sum of both,
plus and minus. No ASOF, no QUALIFY: the text runs as it is on Spark, and on DuckDB through
``feature_repo.dialect``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from feature_repo.contract import FeatureSpec, FeatureView
from feature_repo.dialect import RUNNING

ENTITY = "_entity"  # its number within one query; no declared name begins so
PARTS = ("top", "bottom")  # of a mean: numerator and denominator
SO_FAR = "rows between unbounded preceding and current row"
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
    keys, seconds = ", ".join(view.entity.keys), seconds_of(tick)
    first, last = ("lo", "hi") if spans else (":first", ":last")
    inside = f"tick <= {last}" + (f" and tick >= {first}" if bounded or spans else "")
    continued = view.continued and (bounded or spans)
    source, made = _rows(view, tick, first if continued else None)
    source += f" join entities using ({ENTITY})"
    if continued:
        on = f"{keys}, lo" if spans else keys
        source += f" left join base_{view.name} as base using ({on})"
    columns = [f"{_feature(spec, tick, continued)} as {spec.name}" for spec in view.features]
    columns += [f"{total} as {name}" for name, total in _carried(view, tick, continued)]
    parts = [*_events(view, tick, bounded, spans), *made]
    return (
        "with " + ",\n".join(parts) + f"\nselect {keys}, "
        f"timestamp_seconds(tick * {seconds}) as event_timestamp, "
        f"timestamp_seconds(tick * {seconds}) as created_timestamp,\n  "
        + ",\n  ".join(columns)
        + f"\nfrom {source}\nwhere {inside}\norder by {ENTITY}, tick"
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


def _events(view: FeatureView, tick: timedelta, bounded: bool, spans: bool) -> list[str]:
    """The events that a window of a wanted tick can see, and their entities by number: numbers
    are sorted and joined faster than keys. A span is as good as an entity."""
    back, sql, keys = view.reach // tick, events_sql(view, tick), ", ".join(view.entity.keys)
    if spans:
        return [
            f"entities as (\n  select {keys}, lo, hi, row_number() over (order by {keys}, lo) "
            f"as {ENTITY}\n  from spans_{view.name}\n)",
            f"events as (\n  select all_events.*, {ENTITY}, lo from ({sql}) as all_events\n"
            f"  join entities using ({keys}) where tick > lo - 1 - {back} and tick <= hi\n)",
        ]
    since = f" and tick > :first - 1 - {back}" if bounded else ""
    return [
        f"seen as (\n  select * from ({sql}) as all_events\n  where tick <= :last{since}\n)",
        f"entities as (\n  select {keys}, row_number() over (order by {keys}) as {ENTITY}\n"
        f"  from (select distinct {keys} from seen) as every\n)",
        f"events as (\n  select seen.*, {ENTITY} from seen join entities using ({keys})\n)",
    ]


def _rows(view: FeatureView, tick: timedelta, first: str | None) -> tuple[str, list[str]]:
    """The relation of the view's rows, one per entity and tick, with what its features are made
    of; and what makes it. ``first``: the tick from which on endless sums count; None: any."""
    lasts = list(dict.fromkeys(f.value for f in view.features if f.aggregation == "last"))
    sums = [f for f in view.features if f.aggregation != "last"]
    endless = [f for f in sums if f.window is None]
    parts, source = _lasts(view, lasts), "lasts"
    if sums:
        parts += _sums(sums, first)
        source = "sums"
    if len(endless) < len(sums):
        parts += _windows([f for f in sums if f.window], tick)
        source = "windows"
    if not sums or not (endless or lasts):
        return source, parts
    columns = dict.fromkeys(_column(f, part, tick) for f in sums for part in PARTS)
    ever = {_column(f, part, tick) for f in endless for part in PARTS}
    over = f"over (partition by {ENTITY} order by tick {SO_FAR})"
    wanted = [f"sum({name}) {over} as {name}" if name in ever else name for name in columns]
    wanted += [f"last_value(last_{v}) ignore nulls {over} as last_{v}" for v in lasts]
    more = ["sums"] * bool(endless and source != "sums") + ["lasts"] * bool(lasts)
    source += "".join(f" left join {name} using ({ENTITY}, tick)" for name in more)
    known = f"select {ENTITY}, tick, {', '.join(wanted)}\n  from {source}"
    return "known", [*parts, f"known as (\n  {known}\n)"]


def _lasts(view: FeatureView, values: list[str]) -> list[str]:
    """Last known values as of the last event of each entity and tick."""
    if not values:
        return []
    # One order for all windows: it is sorted once.
    order = ", ".join(("available_at", "event_timestamp", *view.log.tie_break))
    over = f"over (partition by {ENTITY} order by {order}"
    columns = ", ".join(
        f"last_value({value}) ignore nulls {over} {SO_FAR}) as last_{value}" for value in values
    )
    return [
        f"ordered as (\n  select {ENTITY}, tick, {columns},\n    lead(tick) {over}) as following\n"
        "  from events\n)",
        "lasts as (\n  select * from ordered where following is null or following <> tick\n)",
    ]


def _sums(specs: list[FeatureSpec], first: str | None) -> list[str]:
    """Events summed per entity and tick: a numerator and a denominator per value."""
    terms: dict[str, str] = {}
    for spec in specs:
        value, weight = spec.value, spec.weight
        product = f"{value} * {weight}" if weight else value
        counted = f"case when {value} is not null then {weight or 1} end"
        for part, term in zip(PARTS, (product, counted), strict=True):
            if spec.window is None and first:
                term = f"case when tick >= {first} then {term} end"
            terms[_sum(spec, part)] = f"sum(cast({term} as {DECIMAL}))"
    columns = ",\n    ".join(f"{total} as {name}" for name, total in terms.items())
    return [
        f"sums as (\n  select {ENTITY}, tick,\n    {columns}\n  from events\n"
        f"  group by {ENTITY}, tick\n)"
    ]


def _windows(specs: list[FeatureSpec], tick: timedelta) -> list[str]:
    """The sum in each window, at each tick at which an event comes or leaves one.

    All that comes leaves again, be it after the last tick that is wanted: the steps of an entity
    add up to zero, on which ``dialect.tuned`` relies, where the last step of a tick is told by
    the next one.
    """
    made = {_column(f, p, tick): (_sum(f, p), f.window) for f in specs for p in PARTS}
    steps = []
    for ahead in sorted({timedelta(0), *(w for _, w in made.values() if w)}):
        columns = (
            f"{total if not ahead else f'0 - {total}' if ahead == window else 'null'} as {name}"
            for name, (total, window) in made.items()
        )
        steps.append(
            f"select {ENTITY}, tick + {ahead // tick} as tick, {', '.join(columns)} from sums"
        )
    sums = ",\n    ".join(f"sum({name}) over {RUNNING} as {name}" for name in made)
    return [
        "steps as (\n  " + "\n  union all\n  ".join(steps) + "\n)",
        f"slid as (\n  select {ENTITY}, tick,\n    lead({ENTITY}) over {RUNNING} as next_entity, "
        f"lead(tick) over {RUNNING} as next_tick,\n    {sums}\n  from steps\n"
        f"  window {RUNNING} as (partition by {ENTITY} order by tick)\n)",
        "windows as (\n  select * from slid\n  where next_entity is null or "
        f"next_entity <> {ENTITY} or next_tick <> tick\n)",
    ]


def _sum(spec: FeatureSpec, part: str) -> str:
    """Column of the sum at a tick; endless ones have their own, since they begin later."""
    return f"{part}_{spec.value}_{spec.weight or 'one'}" + "_ever" * (spec.window is None)


def _column(spec: FeatureSpec, part: str, tick: timedelta) -> str:
    """Column of the sum in a feature's window."""
    ahead = "" if spec.window is None else f"_{spec.window // tick}"
    return _sum(spec, part) + ahead


def _feature(spec: FeatureSpec, tick: timedelta, continued: bool) -> str:
    """One feature's expression over a row."""
    if spec.aggregation == "last":
        seen = f"cast(last_{spec.value} as double)"
        return f"coalesce({seen}, base.{spec.name})" if continued else seen
    top, bottom = (_total(spec, part, tick, continued) for part in PARTS)
    if spec.aggregation == "mean":
        return f"cast({top} as double) / nullif(cast({bottom} as double), 0)"
    return f"coalesce(cast({bottom if spec.aggregation == 'count' else top} as double), 0)"


def _total(spec: FeatureSpec, part: str, tick: timedelta, continued: bool) -> str:
    """A sum up to the tick: what came since, and of an endless one what was carried."""
    column = _column(spec, part, tick)
    if spec.window is None and continued:
        return f"(coalesce({column}, 0) + coalesce(base.{spec.name}_{part}, 0))"
    return column


def _carried(view: FeatureView, tick: timedelta, continued: bool) -> Iterator[tuple[str, str]]:
    """The endless sums of a view as exact decimals, by their columns' names."""
    for spec in view.features:
        if spec.aggregation != "last" and spec.window is None:
            for part in PARTS:
                total = _total(spec, part, tick, continued)
                yield f"{spec.name}_{part}", f"cast(coalesce({total}, 0) as {CARRIED})"


def seconds_of(span: timedelta) -> int:
    """Whole seconds of a span."""
    return span // timedelta(seconds=1)
