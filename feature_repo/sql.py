"""From declarations to one SQL text in Spark's dialect.

A view's SQL sums events per entity and tick, in decimals, so that no order of rows changes a
digit. What comes at a tick leaves a window some ticks later: each window is a running sum of both,
plus and minus. No ASOF, no QUALIFY: the text runs as it is on Spark, and on DuckDB through
``feature_repo.dialect``. Names that begin with an underscore are its own: no declaration has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from feature_repo.contract import FeatureSpec, FeatureView
from feature_repo.dialect import RUNNING

ENTITY = "_entity"  # its number within one query
SO_FAR = "rows between unbounded preceding and current row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Which ticks (whole numbers) of a view a query computes, and from what.

    Rows have ``first <= tick <= last``. ``first=None``: from the first event on, from nothing.
    Else the entities' last rows before ``first`` are in the relation ``_base_<view>``. With
    ``spans``, both are columns ``_lo`` and ``_hi`` of the relation ``_spans_<view>`` (entity
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
    first, last = ("_lo", "_hi") if spans else (":first", ":last")
    inside = f"_tick <= {last}" + (f" and _tick >= {first}" if bounded or spans else "")
    continued = view.continued and (bounded or spans)
    source, made = _rows(view, tick, first if continued else None)
    source += f" join _entities using ({ENTITY})"
    if continued:
        on = f"{keys}, _lo" if spans else keys
        source += f" left join _base_{view.name} as _base using ({on})"
    columns = [f"{_feature(spec, tick, continued)} as {spec.name}" for spec in view.features]
    columns += [f"{total} as {name}" for name, total in _carried(view, tick, continued)]
    parts = [*_events(view, tick, bounded, spans), *made]
    return (
        "with " + ",\n".join(parts) + f"\nselect {keys}, "
        f"timestamp_seconds(_tick * {seconds}) as event_timestamp, "
        f"timestamp_seconds(_tick * {seconds}) as created_timestamp,\n  "
        + ",\n  ".join(columns)
        + f"\nfrom {source}\nwhere {inside}\norder by {ENTITY}, _tick"
    )


def events_sql(view: FeatureView, tick: timedelta) -> str:
    """SELECT of a view's events: the log's columns and ``tick``, the first one at or after
    ``available_at``; events of unknown entities are out."""
    known = " and ".join(f"{key} is not null" for key in view.entity.keys)
    micros = seconds_of(tick) * 1_000_000
    return (
        f"select _log.*, (unix_micros(available_at) + {micros - 1}) div {micros} as _tick\n"
        f"  from ({view.log.sql}) as _log where {known}"
    )


def _events(view: FeatureView, tick: timedelta, bounded: bool, spans: bool) -> list[str]:
    """The events that a window of a wanted tick can see, and their entities by number: numbers
    are sorted and joined faster than keys. A span is as good as an entity."""
    back, sql, keys = view.reach // tick, events_sql(view, tick), ", ".join(view.entity.keys)
    if spans:
        return [
            f"_entities as (\n  select {keys}, _lo, _hi, row_number() over (order by {keys}, _lo) "
            f"as {ENTITY}\n  from _spans_{view.name}\n)",
            f"_events as (\n  select _all_events.*, {ENTITY}, _lo from ({sql}) as _all_events\n"
            f"  join _entities using ({keys}) where _tick > _lo - 1 - {back} and _tick <= _hi\n)",
        ]
    since = f" and _tick > :first - 1 - {back}" if bounded else ""
    return [
        f"_seen as (\n  select * from ({sql}) as _all_events\n  where _tick <= :last{since}\n)",
        f"_entities as (\n  select {keys}, row_number() over (order by {keys}) as {ENTITY}\n"
        f"  from (select distinct {keys} from _seen) as _every\n)",
        f"_events as (\n  select _seen.*, {ENTITY} from _seen join _entities using ({keys})\n)",
    ]


def _rows(view: FeatureView, tick: timedelta, first: str | None) -> tuple[str, list[str]]:
    """The relation of the view's rows, one per entity and tick, with what its features are made
    of; and what makes it. ``first``: the tick from which on endless sums count; None: any."""
    lasts = list(dict.fromkeys(f.value for f in view.features if f.aggregation == "last"))
    sums = [f for f in view.features if f.aggregation != "last"]
    endless = [f for f in sums if f.window is None]
    parts, source = _lasts(view, lasts), "_lasts"
    if sums:
        parts += _sums(sums, first)
        source = "_sums"
    if len(endless) < len(sums):
        parts += _windows([f for f in sums if f.window], tick)
        source = "_windows"
    if not sums or not (endless or lasts):
        return source, parts
    columns = dict.fromkeys(_column(f, part, tick) for f in sums for part in f.parts)
    ever = {_column(f, part, tick) for f in endless for part in f.parts}
    over = f"over (partition by {ENTITY} order by _tick {SO_FAR})"
    wanted = [f"sum({name}) {over} as {name}" if name in ever else name for name in columns]
    wanted += [f"last_value(last_{v}) ignore nulls {over} as last_{v}" for v in lasts]
    more = ["_sums"] * bool(endless and source != "_sums") + ["_lasts"] * bool(lasts)
    source += "".join(f" left join {name} using ({ENTITY}, _tick)" for name in more)
    known = f"select {ENTITY}, _tick, {', '.join(wanted)}\n  from {source}"
    return "_known", [*parts, f"_known as (\n  {known}\n)"]


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
        f"_ordered as (\n  select {ENTITY}, _tick, {columns},\n"
        f"    lead(_tick) {over}) as _following\n  from _events\n)",
        "_lasts as (\n  select * from _ordered where _following is null or _following <> _tick\n)",
    ]


def _sums(specs: list[FeatureSpec], first: str | None) -> list[str]:
    """Events summed per entity and tick: a numerator and a denominator per value."""
    terms: dict[str, str] = {}
    for spec in specs:
        for part in spec.parts:
            term = summand(spec, part)
            if spec.window is None and first:
                term = f"case when _tick >= {first} then {term} end"
            terms[_sum(spec, part)] = f"sum({term})"
    columns = ",\n    ".join(f"{total} as {name}" for name, total in terms.items())
    return [
        f"_sums as (\n  select {ENTITY}, _tick,\n    {columns}\n  from _events\n"
        f"  group by {ENTITY}, _tick\n)"
    ]


def _windows(specs: list[FeatureSpec], tick: timedelta) -> list[str]:
    """The sum in each window, at each tick at which an event comes or leaves one.

    All that comes leaves again, be it after the last tick that is wanted: the steps of an entity
    add up to zero, on which ``dialect.tuned`` relies, where the last step of a tick is told by
    the next one.
    """
    made = {_column(f, p, tick): (_sum(f, p), f.window) for f in specs for p in f.parts}
    steps = []
    for ahead in sorted({timedelta(0), *(w for _, w in made.values() if w)}):
        columns = (
            f"{total if not ahead else f'0 - {total}' if ahead == window else 'null'} as {name}"
            for name, (total, window) in made.items()
        )
        steps.append(
            f"select {ENTITY}, _tick + {ahead // tick} as _tick, {', '.join(columns)} from _sums"
        )
    sums = ",\n    ".join(f"sum({name}) over {RUNNING} as {name}" for name in made)
    return [
        "_steps as (\n  " + "\n  union all\n  ".join(steps) + "\n)",
        f"_slid as (\n  select {ENTITY}, _tick, lead({ENTITY}) over {RUNNING} as _next_entity,\n"
        f"    lead(_tick) over {RUNNING} as _next_tick,\n    {sums}\n  from _steps\n"
        f"  window {RUNNING} as (partition by {ENTITY} order by _tick)\n)",
        "_windows as (\n  select * from _slid\n  where _next_entity is null or "
        f"_next_entity <> {ENTITY} or _next_tick <> _tick\n)",
    ]


def summand(spec: FeatureSpec, part: str) -> str:
    """What an event adds to a sum, exactly; null where it has no value or no weight."""
    value, weight = spec.value, spec.weight
    if part == "top":
        term = f"{value} * {weight}" if weight else value
    else:
        term = f"case when {value} is not null then {weight or 1} end"
    return f"cast({term} as decimal(18,{spec.decimals}))"


def _sum(spec: FeatureSpec, part: str) -> str:
    """Column of the sum at a tick; endless ones have their own, since they begin later."""
    name = f"{part}_{spec.value}_{spec.weight or 'one'}_{spec.decimals}"
    return name + "_ever" * (spec.window is None)


def _column(spec: FeatureSpec, part: str, tick: timedelta) -> str:
    """Column of the sum in a feature's window."""
    ahead = "" if spec.window is None else f"_{spec.window // tick}"
    return _sum(spec, part) + ahead


def _feature(spec: FeatureSpec, tick: timedelta, continued: bool) -> str:
    """One feature's expression over a row."""
    if spec.aggregation == "last":
        seen = f"cast(last_{spec.value} as double)"
        return f"coalesce({seen}, _base.{spec.name})" if continued else seen
    totals = [f"cast({_total(spec, part, tick, continued)} as double)" for part in spec.parts]
    if spec.aggregation == "mean":
        return f"{totals[0]} / nullif({totals[1]}, 0)"
    return f"coalesce({totals[0]}, 0)"


def _total(spec: FeatureSpec, part: str, tick: timedelta, continued: bool) -> str:
    """A sum up to the tick: what came since, and of an endless one what was carried."""
    column = _column(spec, part, tick)
    if spec.window is None and continued:
        return f"(coalesce({column}, 0) + coalesce(_base.{spec.name}_{part}, 0))"
    return column


def _carried(view: FeatureView, tick: timedelta, continued: bool) -> Iterator[tuple[str, str]]:
    """The endless sums of a view as exact decimals, by their columns' names."""
    for spec in view.endless:
        for part in spec.parts:
            total = f"coalesce({_total(spec, part, tick, continued)}, 0)"
            yield f"{spec.name}_{part}", f"cast({total} as decimal(38,{spec.decimals}))"


def seconds_of(span: timedelta) -> int:
    """Whole seconds of a span."""
    return span // timedelta(seconds=1)
