"""What a change of the raw tables touches, and only that, computed anew.

Two versions of a raw table differ in some parts; their rows, in some of those. The log's SQL
turns the rows that went and the rows that came into events; events in both cancel out. Each
event that is left touches, of its entity,

* the ticks whose windows hold it, and the one at which it leaves the longest of them,
* of a last value that it states: its tick, up to the next event that states this value,
* of sums that go on for ever: the ticks at which the change of the sum is not zero.

Those spans of ticks are computed by the same SQL as everything else (``Reach.spans``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView
from feature_repo.dialect import to_duckdb
from feature_repo.duckdb_session import bind
from feature_repo.engine import Session, compute, last_rows
from feature_repo.sql import Reach, events_sql, summand
from feature_repo.tables import Table, by_month, files_between, month_of, table_files
from feature_repo.zones import mapped_table

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 50_000  # changed events of a view from which on it is computed from the start


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """A view after corrections: the months that changed, whole, the state after them, and how
    many rows (entity and tick) differ from before."""

    months: dict[str, pa.Table]
    state: pa.Table
    rows: int


def find_changes(session: Session, before: Table, after: Table) -> None:
    """Leave the rows that only one version of a raw table has in ``_went_<name>`` and
    ``_came_<name>``; only parts that differ are read."""
    sides = {}
    for name, table, other in (("old", before, after), ("new", after, before)):
        known = {path.name for path in table_files(other)}
        files = table_files(table)
        changed = [path for path in files if path.name not in known]
        bind(session.connection, f"_{name}_rows", changed or files[:1])
        sides[name] = f"(select * from _{name}_rows where {bool(changed)})"
    for name, these, those in (("went", "old", "new"), ("came", "new", "old")):
        session.connection.execute(
            f"create or replace temp table _{name}_{after.name} as "
            f"from {sides[these]} except all from {sides[those]}"
        )


def find_events(session: Session, view: FeatureView, end: int) -> int:
    """Leave the view's events up to the tick ``end`` that came (sign 1) or went (sign -1) in
    ``_changes``; how many there are."""
    connection, table = session.connection, mapped_table(view.log.sql)
    values = (v for f in view.features for v in (f.value, f.weight) if v is not None)
    order = ("available_at", "event_timestamp", *view.log.tie_break)
    named = dict.fromkeys((*view.entity.keys, "_tick", *order, *values))
    columns = ", ".join(f'"{name}"' for name in named)
    for side in ("went", "came"):
        connection.execute(f"create or replace temp view {table} as from _{side}_{table}")
        connection.execute(
            f"create or replace temp table _{side} as select {columns} from "
            f"({to_duckdb(events_sql(view, session.use_case.tick))}) where _tick <= {end}"
        )
    connection.execute(
        "create or replace temp table _changes as "
        "select *, 1 as _sign from (from _came except all from _went) "
        "union all select *, -1 as _sign from (from _went except all from _came)"
    )
    return int(connection.sql("from _changes").shape[0])


def correct(
    session: Session, view: FeatureView, stored: Table, state: pa.Table, end: int
) -> Corrected:
    """Compute what the events in ``_changes`` touch, up to the tick ``end``; ``state`` holds at
    ``end``, before the corrections.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    session.connection.register("_state", state)
    first, last = find_spans(session, view, end)
    find_base(session, view, stored)
    rows = compute(session, view, Reach(first=first, last=last, spans=True), None)
    session.connection.execute(f"drop view _base_{view.name}")
    session.connection.register("_fresh", rows)
    months, differing = _months(session, view, stored, (first, last))
    return Corrected(months=months, state=_state(session, view, state), rows=differing)


def find_spans(session: Session, view: FeatureView, end: int) -> tuple[int, int]:
    """Leave the touched ticks of each entity as disjoint spans ``lo`` to ``hi`` in
    ``_spans_<view>``; the first and the last of them."""
    keys = ", ".join(view.entity.keys)
    reach = view.reach // session.use_case.tick
    spans = [f"select {keys}, _tick as _lo, _tick + {reach} as _hi from _changes"]
    if lasts := dict.fromkeys(f.value for f in view.features if f.aggregation == "last"):
        _find_stated(session, view, list(lasts), end)
        spans += [_last_span(view, value, end) for value in lasts]
    if view.carried:
        spans.append(_carried_spans(view, end))
    session.connection.execute(
        f"create or replace temp table _spans_{view.name} as\n"
        f"with _spans as (select {keys}, _lo, least(_hi, {end}) as _hi from ("
        + " union all ".join(spans)
        + f")),\n_before as (select *, max(_hi) over (partition by {keys} order by _lo, _hi "
        "rows between unbounded preceding and 1 preceding) as _reached from _spans),\n"
        "_islands as (select *, sum(case when _lo <= _reached + 1 then 0 else 1 end) over "
        f"(partition by {keys} order by _lo, _hi) as _island from _before)\n"
        f"select {keys}, min(_lo) as _lo, max(_hi) as _hi from _islands group by {keys}, _island"
    )
    answer = session.connection.execute(f"select min(_lo), max(_hi) from _spans_{view.name}")
    first, last = answer.fetchall()[0]
    return int(first), int(last)


def _find_stated(session: Session, view: FeatureView, values: list[str], end: int) -> None:
    """Leave in ``_stated`` which values the events of the changed entities state, by tick (column
    ``_states_<value>``), from the first change on."""
    keys, connection = ", ".join(view.entity.keys), session.connection
    row = connection.execute("select min(_tick) from _changes").fetchall()[0]
    session.see(
        view.log.sql, session.zones[view.log.name], row[0] * session.seconds, end * session.seconds
    )
    states = ", ".join(f'bool_or("{value}" is not null) as _states_{value}' for value in values)
    connection.execute(
        f"create or replace temp table _stated as select {keys}, _tick, {states} from "
        f"({to_duckdb(events_sql(view, session.use_case.tick))}) as _events "
        f"semi join _changes using ({keys}) group by {keys}, _tick"
    )


def _last_span(view: FeatureView, value: str, end: int) -> str:
    """Last values: from a changed event that states this one up to the next event that does."""
    keys = ", ".join(view.entity.keys)
    return (
        f"(select {keys}, _tick as _lo, coalesce(_following, {end + 1}) - 1 as _hi from ("
        f"select *, min(case when _whole then _tick end) over (partition by {keys} order by _tick "
        "range between 1 following and unbounded following) as _following from ("
        f'select distinct {keys}, _tick, false as _whole from _changes where "{value}" is not null '
        f"union all select {keys}, _tick, true as _whole from _stated where _states_{value}"
        ")) where not _whole)"
    )


def _carried_spans(view: FeatureView, end: int) -> str:
    """Endless sums: the ticks at which what came and what went do not cancel out."""
    keys = ", ".join(view.entity.keys)
    terms = [summand(spec, part) for spec in view.endless for part in spec.parts]
    names = [f"_sum_{number}" for number in range(len(terms))]
    sums = ", ".join(
        f"sum(coalesce(_sign * {term}, 0)) as {name}"
        for name, term in zip(names, terms, strict=True)
    )
    running = ", ".join(
        f"sum({name}) over (partition by {keys} order by _tick) as {name}" for name in names
    )
    return (
        f"(select {keys}, _tick as _lo, coalesce(_following, {end + 1}) - 1 as _hi from ("
        f"select {keys}, _tick, {running}, lead(_tick) over (partition by {keys} order by _tick) "
        f"as _following from (select {keys}, _tick, {sums} from _changes "
        f"group by {keys}, _tick)) where {' or '.join(f'{name} <> 0' for name in names)})"
    )


def find_base(session: Session, view: FeatureView, stored: Table) -> None:
    """Leave each span's row before it in ``_base_<view>``: the entity's last one in the stored
    view. Recent months are read first, and older ones only for what was not found."""
    keys, connection = ", ".join(view.entity.keys), session.connection
    files = sorted(table_files(stored), reverse=True)
    bind(connection, "_stored", files[:1])
    connection.execute(
        "create or replace temp table _base as select *, 0::bigint as _lo from _stored where false"
    )
    connection.execute(f"create or replace temp view _base_{view.name} as from _base")
    start = 0
    while start < len(files):
        some = files[start : 2 * start + 2]
        bind(connection, "_stored", some)
        connection.execute(
            f"insert into _base select _stored.*, _lo from _stored join "
            f"(from _spans_{view.name} anti join _base using ({keys}, _lo)) as _spans "
            f"using ({keys}) where {_tick(session)} < _lo qualify row_number() over "
            f"(partition by {keys}, _lo order by event_timestamp desc) = 1"
        )
        start += len(some)
        if not _without_base(session, view):
            return


def _without_base(session: Session, view: FeatureView) -> int:
    """Spans of entities that are known and whose row before was not found yet."""
    keys = ", ".join(view.entity.keys)
    return int(
        session.connection.sql(
            f"select 1 from _spans_{view.name} semi join _state using ({keys}) "
            f"anti join _base using ({keys}, _lo)"
        ).shape[0]
    )


def _months(
    session: Session, view: FeatureView, stored: Table, reach: tuple[int, int]
) -> tuple[dict[str, pa.Table], int]:
    """The changed months with ``_fresh`` in the place of what the spans held, and how many rows
    differ."""
    connection, keys = session.connection, ", ".join(view.entity.keys)
    near = files_between(stored, *(tick * session.seconds for tick in reach))
    bind(connection, "_stored", near)
    inside = _inside(session, view, "_stored")
    connection.execute(
        f"create or replace temp table _held as select * from _stored where {inside}"
    )
    differing = connection.execute(
        "select strftime(event_timestamp, '%Y-%m'), count(*) from (select distinct "
        f"{keys}, event_timestamp from ((from _held except all from _fresh) union all "
        "(from _fresh except all from _held))) group by 1"
    ).fetchall()
    changed = {month for month, _ in differing}
    files = [path for path in near if month_of(path) in changed]
    bind(connection, "_stored", files or near[:1])
    whole = connection.sql(
        f"select * from _stored where {bool(files)} and not {inside} union all by name "
        f"from _fresh order by {keys}, event_timestamp"
    ).to_arrow_table()
    months = by_month(whole, "event_timestamp") if changed else {}
    # A month that lost all of its rows is still a changed one.
    return {m: months.get(m, whole.slice(0, 0)) for m in changed}, sum(n for _, n in differing)


def _state(session: Session, view: FeatureView, before: pa.Table) -> pa.Table:
    """Each entity's last row: the new ones, and old ones that no span removed."""
    inside = _inside(session, view, "_old")
    rows = session.connection.sql(
        f"select * exclude (_lo) from _base as _old where not {inside} "
        f"union all by name select * from _state as _old where not {inside} "
        "union all by name from _fresh"
    ).to_arrow_table()
    return last_rows(session, view, rows.cast(before.schema), None)


def _inside(session: Session, view: FeatureView, relation: str) -> str:
    """Whether a row of ``relation`` lies in a span of its entity."""
    same = " and ".join(f"_span.{key} = {relation}.{key}" for key in view.entity.keys)
    return (
        f"exists (select 1 from _spans_{view.name} as _span where {same} and "
        f"{_tick(session, relation)} between _span._lo and _span._hi)"
    )


def _tick(session: Session, relation: str = "_stored") -> str:
    return f"cast(epoch({relation}.event_timestamp) as bigint) // {session.seconds}"
