"""What a change of the raw tables touches, and only that, computed anew.

Two versions of a raw table differ in some parts; their rows, in some of those. The log's SQL
turns the rows that went and the rows that came into events; events in both cancel out. Each
event that is left touches, of its entity,

* the ticks whose windows hold it, and the one at which it leaves the longest of them,
* of last values: its tick, up to the next event that states them all,
* of sums that go on for ever: the ticks at which the change of the sum is not zero.

Those spans of ticks are computed by the same SQL as everything else (``Reach.spans``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView
from feature_repo.dialect import to_duckdb
from feature_repo.engine import Session, compute, last_rows
from feature_repo.sql import DECIMAL, Reach, events_sql
from feature_repo.tables import Table, bind, by_month, files_between, month_of, table_files
from feature_repo.zones import mapped_table

if TYPE_CHECKING:
    import pyarrow as pa

MANY = 50_000  # changed events of a view from which on it is computed from the start


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """A view after corrections: the months that changed, whole, the state after them, and how
    many rows were computed anew or removed."""

    months: dict[str, pa.Table]
    state: pa.Table
    rows: int


def find_changes(session: Session, before: Table, after: Table) -> None:
    """Leave the rows that only one version of a raw table has in ``went_<name>`` and
    ``came_<name>``; only parts that differ are read."""
    sides = {}
    for name, table, other in (("old", before, after), ("new", after, before)):
        known = {path.name for path in table_files(other)}
        files = table_files(table)
        changed = [path for path in files if path.name not in known]
        bind(session.connection, f"{name}_rows", changed or files[:1])
        sides[name] = f"(select * from {name}_rows where {bool(changed)})"
    for name, these, those in (("went", "old", "new"), ("came", "new", "old")):
        session.connection.execute(
            f"create or replace temp table {name}_{after.name} as "
            f"from {sides[these]} except all from {sides[those]}"
        )


def find_events(session: Session, view: FeatureView, end: int) -> int:
    """Leave the view's events up to the tick ``end`` that came (sign 1) or went (sign -1) in
    ``changes``; how many there are."""
    connection, table = session.connection, mapped_table(view.log.sql)
    values = (v for f in view.features for v in (f.value, f.weight) if v is not None)
    order = ("available_at", "event_timestamp", *view.log.tie_break)
    named = dict.fromkeys((*view.entity.keys, "tick", *order, *values))
    columns = ", ".join(f'"{name}"' for name in named)
    for side in ("went", "came"):
        connection.execute(f"create or replace temp view {table} as from {side}_{table}")
        connection.execute(
            f"create or replace temp table {side} as select {columns} from "
            f"({to_duckdb(events_sql(view, session.use_case.tick))}) where tick <= {end}"
        )
    connection.execute(
        "create or replace temp table changes as "
        "select *, 1 as sign from (from came except all from went) "
        "union all select *, -1 as sign from (from went except all from came)"
    )
    return int(connection.sql("from changes").shape[0])


def correct(
    session: Session, view: FeatureView, stored: Table, state: pa.Table, end: int
) -> Corrected:
    """Compute what the events in ``changes`` touch, up to the tick ``end``; ``state`` holds at
    ``end``, before the corrections.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    session.connection.register("state", state)
    first, last = find_spans(session, view, end)
    find_base(session, view, stored)
    rows = compute(session, view, Reach(first=first, last=last, spans=True), None)
    session.connection.execute(f"drop view base_{view.name}")
    session.connection.register("fresh", rows)
    months, gone = _months(session, view, stored, (first, last), rows)
    return Corrected(months=months, state=_state(session, view, state), rows=rows.num_rows + gone)


def find_spans(session: Session, view: FeatureView, end: int) -> tuple[int, int]:
    """Leave the touched ticks of each entity as disjoint spans ``lo`` to ``hi`` in
    ``spans_<view>``; the first and the last of them."""
    keys = ", ".join(view.entity.keys)
    reach = view.reach // session.use_case.tick
    spans = [f"select {keys}, tick as lo, tick + {reach} as hi from changes"]
    if any(f.aggregation == "last" for f in view.features):
        spans.append(_last_spans(session, view, end))
    if view.carried:
        spans.append(_carried_spans(view, end))
    session.connection.execute(
        f"create or replace temp table spans_{view.name} as\n"
        f"with spans as (select {keys}, lo, least(hi, {end}) as hi from ("
        + " union all ".join(spans)
        + f")),\nbefore as (select *, max(hi) over (partition by {keys} order by lo, hi "
        "rows between unbounded preceding and 1 preceding) as reached from spans),\n"
        "islands as (select *, sum(case when lo <= reached + 1 then 0 else 1 end) over "
        f"(partition by {keys} order by lo, hi) as island from before)\n"
        f"select {keys}, min(lo) as lo, max(hi) as hi from islands group by {keys}, island"
    )
    answer = session.connection.execute(f"select min(lo), max(hi) from spans_{view.name}")
    first, last = answer.fetchall()[0]
    return int(first), int(last)


def _last_spans(session: Session, view: FeatureView, end: int) -> str:
    """Last values: from a changed event's tick up to the next event that states them all."""
    keys, connection = ", ".join(view.entity.keys), session.connection
    row = connection.execute("select min(tick) from changes").fetchall()[0]
    session.see(
        view.log.sql, session.zones[view.log.name], row[0] * session.seconds, end * session.seconds
    )
    values = dict.fromkeys(f.value for f in view.features if f.aggregation == "last")
    complete = " and ".join(f'"{value}" is not null' for value in values)
    connection.execute(
        f"create or replace temp table complete as select distinct {keys}, tick from "
        f"({to_duckdb(events_sql(view, session.use_case.tick))}) as events "
        f"semi join changes using ({keys}) where {complete}"
    )
    return (
        f"(select {keys}, tick as lo, coalesce(following, {end + 1}) - 1 as hi from ("
        f"select *, min(case when whole then tick end) over (partition by {keys} order by tick "
        "range between 1 following and unbounded following) as following from ("
        f"select distinct {keys}, tick, false as whole from changes union all "
        f"select {keys}, tick, true as whole from complete)) where not whole)"
    )


def _carried_spans(view: FeatureView, end: int) -> str:
    """Endless sums: the ticks at which what came and what went do not cancel out."""
    keys = ", ".join(view.entity.keys)
    sums, differ = [], []
    for number, spec in enumerate(f for f in view.features if f.window is None):
        if spec.aggregation == "last":
            continue
        product = f'"{spec.value}" * "{spec.weight}"' if spec.weight else f'"{spec.value}"'
        one = f'"{spec.weight}"' if spec.weight else "1"
        counted = f'case when "{spec.value}" is not null then {one} end'
        for part, term in (("top", product), ("bottom", counted)):
            name = f"{part}_{number}"
            sums.append(f"sum(coalesce(sign * cast({term} as {DECIMAL}), 0)) as {name}")
            differ.append(f"{name} <> 0")
    running = ", ".join(
        f"sum({name}) over (partition by {keys} order by tick) as {name}"
        for name in (sum_.split(" as ")[-1] for sum_ in sums)
    )
    return (
        f"(select {keys}, tick as lo, coalesce(following, {end + 1}) - 1 as hi from ("
        f"select {keys}, tick, {running}, lead(tick) over (partition by {keys} order by tick) "
        f"as following from (select {keys}, tick, {', '.join(sums)} from changes "
        f"group by {keys}, tick)) where {' or '.join(differ)})"
    )


def find_base(session: Session, view: FeatureView, stored: Table) -> None:
    """Leave each span's row before it in ``base_<view>``: the entity's last one in the stored
    view. Recent months are read first, and older ones only for what was not found."""
    keys, connection = ", ".join(view.entity.keys), session.connection
    files = sorted(table_files(stored), reverse=True)
    bind(connection, "stored", files[:1])
    connection.execute(
        "create or replace temp table base as select *, 0::bigint as lo from stored where false"
    )
    connection.execute(f"create or replace temp view base_{view.name} as from base")
    start = 0
    while start < len(files):
        some = files[start : 2 * start + 2]
        bind(connection, "stored", some)
        connection.execute(
            f"insert into base select stored.*, lo from stored join "
            f"(from spans_{view.name} anti join base using ({keys}, lo)) as spans "
            f"using ({keys}) where {_tick(session)} < lo qualify row_number() over "
            f"(partition by {keys}, lo order by event_timestamp desc) = 1"
        )
        start += len(some)
        if not _without_base(session, view):
            return


def _without_base(session: Session, view: FeatureView) -> int:
    """Spans of entities that are known and whose row before was not found yet."""
    keys = ", ".join(view.entity.keys)
    return int(
        session.connection.sql(
            f"select 1 from spans_{view.name} semi join state using ({keys}) "
            f"anti join base using ({keys}, lo)"
        ).shape[0]
    )


def _months(
    session: Session, view: FeatureView, stored: Table, reach: tuple[int, int], rows: pa.Table
) -> tuple[dict[str, pa.Table], int]:
    """The changed months with ``fresh`` in the place of what the spans held, and how many rows
    those were."""
    connection, keys = session.connection, ", ".join(view.entity.keys)
    near = files_between(stored, *(tick * session.seconds for tick in reach))
    bind(connection, "stored", near)
    inside = _inside(session, view, "stored")
    held = connection.execute(
        f"select strftime(event_timestamp, '%Y-%m'), count(*) from stored where {inside} group by 1"
    ).fetchall()
    changed = {month for month, _ in held}
    changed |= set(by_month(rows, "event_timestamp")) if rows.num_rows else set()
    files = [path for path in near if month_of(path) in changed]
    bind(connection, "stored", files or near[:1])
    whole = connection.sql(
        f"select * from stored where {bool(files)} and not {inside} union all by name from fresh "
        f"order by {keys}, event_timestamp"
    ).to_arrow_table()
    months = by_month(whole, "event_timestamp") if changed else {}
    # A month that lost all of its rows is still a changed one.
    return {m: months.get(m, whole.slice(0, 0)) for m in changed}, sum(n for _, n in held)


def _state(session: Session, view: FeatureView, before: pa.Table) -> pa.Table:
    """Each entity's last row: the new ones, and old ones that no span removed."""

    inside = _inside(session, view, "old")
    rows = session.connection.sql(
        f"select * exclude (lo) from base as old where not {inside} "
        f"union all by name select * from state as old where not {inside} "
        "union all by name from fresh"
    ).to_arrow_table()
    return last_rows(session, view, rows.cast(before.schema), None)


def _inside(session: Session, view: FeatureView, relation: str) -> str:
    """Whether a row of ``relation`` lies in a span of its entity."""
    same = " and ".join(f"span.{key} = {relation}.{key}" for key in view.entity.keys)
    return (
        f"exists (select 1 from spans_{view.name} as span where {same} and "
        f"{_tick(session, relation)} between span.lo and span.hi)"
    )


def _tick(session: Session, relation: str = "stored") -> str:
    return f"cast(epoch({relation}.event_timestamp) as bigint) // {session.seconds}"
