"""Runs the feature SQL on DuckDB: raw tables to views, views and requests to the training set.

A view is computed chunk by chunk in time: the rows of a chunk come from the events in reach of
its windows and from each entity's last row before it (the view's state). So memory does not
grow with history, and a new day is one more chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView, UseCase
from feature_repo.dialect import to_duckdb, tuned
from feature_repo.duckdb_session import bind, connect, declared_sql
from feature_repo.errors import SourceError
from feature_repo.home import Home
from feature_repo.sql import Reach, view_text
from feature_repo.tables import (
    Table,
    by_month,
    files_between,
    named,
    table_files,
    write_parts,
    write_table,
)
from feature_repo.ticks import epoch_seconds, tick_of
from feature_repo.training_sql import training_set_sql
from feature_repo.zones import Zone, Zones, bounds, find_zones, mapped_table, overlapping

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

TRAINING_SET = "training_set"
CHUNK = 1_000_000  # events of a view, or requests, that one query computes
REQUESTS = "requests"


@dataclass(frozen=True)
class Built:
    """Feature views up to and with the tick ``until`` (epoch seconds), and what made them.

    ``states``: a table a view, the last row of each entity at ``until``. ``zones``: see
    ``feature_repo.zones``, by log.
    """

    until: int
    tables: list[Table]
    views: list[Table]
    states: list[Table]
    zones: dict[str, Zones]


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One DuckDB session over the raw tables of a use case, and their zones."""

    home: Home
    use_case: UseCase
    connection: duckdb.DuckDBPyConnection
    files: Mapping[str, Sequence[Path]]
    zones: dict[str, Zones] = field(default_factory=dict)

    @property
    def seconds(self) -> int:
        """Length of a tick."""
        return int(self.use_case.tick.total_seconds())

    def see(self, sql: str, zones: Zones, first: float, last: float) -> None:
        """Bind the raw tables to those parts that ``sql`` needs for instants in first to last."""
        table = mapped_table(sql)
        for name, files in self.files.items():
            near = overlapping(files, zones, first, last) if name == table else files
            bind(self.connection, name, near)

    def ask(self, sql: str, values: Mapping[str, int] | None = None) -> pa.Table:
        """The answer to a query in DuckDB's dialect, with values for its markers."""
        return self.connection.sql(sql, params=values).to_arrow_table()


def open_session(
    home: Home, use_case: UseCase, tables: list[Table], known: Mapping[str, Zones] | None = None
) -> Session:
    """A session in which each log's zones are found; ``known`` ones are taken over.

    Raises:
        DeclarationError: DuckDB cannot run the SQL of a log or of the requests.
    """
    session = Session(
        home=home, use_case=use_case, connection=connect(tables),
        files={table.name: table_files(table) for table in tables},
    )  # fmt: skip
    asked = {view.log.name: (view.log.sql, "available_at") for view in use_case.views}
    asked[REQUESTS] = (use_case.requests_sql, "prediction_time")
    for name, (sql, instant) in asked.items():
        table, known_zones = mapped_table(sql), (known or {}).get(name, {})
        what = "requests_sql" if name == REQUESTS else f"event log {name!r}"
        with declared_sql(f"use case {use_case.name!r}, {what}"):
            if table is None:  # finding zones looks at the others
                session.connection.execute(f"describe select {instant} from ({tuned(sql)})")
            session.zones[name] = find_zones(
                session.connection, sql, instant, session.files.get(table or "", ()), known_zones
            )
    return session


def compute_views(home: Home, use_case: UseCase, tables: list[Table]) -> list[Table]:
    """One stored table per feature view, checked against its declaration; for errors see
    ``build_views``."""
    return build_views(home, use_case, tables).views


def build_views(
    home: Home, use_case: UseCase, tables: list[Table], until: datetime | None = None
) -> Built:
    """Every feature view from its first event on. ``until``: the last tick is the one at or
    before it; None: as far as the data reach.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    session = open_session(home, use_case, tables)
    end = last_tick(session, until)
    made = [store_view(session, view, chunks_of(session, view, end)) for view in use_case.views]
    views, states = zip(*made, strict=True)
    return Built(end * session.seconds, tables, list(views), list(states), session.zones)


def last_tick(session: Session, until: datetime | None) -> int:
    """The tick (its number) at or before ``until``; without it, the first one that no fact and
    no request is later than, but none that a request made now does not read yet. Scheduled facts
    may lie ahead, and do not count."""
    if until is not None:
        return epoch_seconds(until) // session.seconds
    use_case = session.use_case
    logs = {v.log.name: v.log.sql for v in use_case.views if not v.log.scheduled}
    facts = max((_last(session, *log, "available_at") for log in logs.items()), default=0)
    asked = _last(session, REQUESTS, use_case.requests_sql, "prediction_time")
    present = tick_of(datetime.now(timezone.utc), tick=use_case.tick, lag=use_case.lag)
    return min(-(-max(facts, asked) // session.seconds), epoch_seconds(present) // session.seconds)


def _last(session: Session, name: str, sql: str, instant: str) -> int:
    """The last instant (epoch seconds, rounded up) that a query yields; 0 without any."""
    if session.zones[name] or mapped_table(sql):
        return bounds([session.zones[name]])[1]
    session.see(sql, {}, -math.inf, math.inf)
    found = session.connection.execute(f"select ceil(epoch(max({instant}))) from ({tuned(sql)})")
    return int(found.fetchall()[0][0] or 0)


def store_view(session: Session, view: FeatureView, chunks: Iterator[Reach]) -> tuple[Table, Table]:
    """Compute a view chunk by chunk; the stored view, and its state after the last one."""
    state: pa.Table | None = None

    def parts() -> Iterator[tuple[str, pa.Table]]:
        nonlocal state
        for reach in chunks:
            rows = compute(session, view, reach, state)
            state = last_rows(session, view, rows, state)
            yield from by_month(rows, "event_timestamp").items()

    stored = write_parts(session.home, view.name, parts())
    return stored, write_table(session.home, f"state_{view.name}", state)


def compute(session: Session, view: FeatureView, reach: Reach, state: pa.Table | None) -> pa.Table:
    """The rows of one chunk, checked against the view's declaration.

    Raises:
        SourceError: a value outside its declared bounds, or too large to be summed exactly; or a
            key twice.
    """
    import duckdb

    from feature_repo.schemas import validate_table, view_schema

    tick = session.seconds
    back = view.reach // session.use_case.tick + 1
    first = -math.inf if reach.first is None else (reach.first - back) * tick
    session.see(view.log.sql, session.zones[view.log.name], first, reach.last * tick)
    if state is not None:
        session.connection.register(f"_base_{view.name}", state)
    text = view_text(view, session.use_case.tick, reach.first is not None, reach.spans)
    try:
        rows = session.ask(tuned(text), reach.values)
    except duckdb.ConversionException as exc:
        raise SourceError(
            f"use case {session.use_case.name!r}, feature view {view.name!r}: a value of event log "
            f"{view.log.name!r} is no number that its sums hold ({str(exc).splitlines()[0]}); "
            "mend it, or filter it out in the log's SQL"
        ) from exc
    validate_table(rows, view_schema(view))
    return rows


def last_rows(
    session: Session, view: FeatureView, rows: pa.Table, before: pa.Table | None
) -> pa.Table:
    """Each entity's last row among ``rows`` and, where it has none there, ``before``; ordered by
    the entity's keys."""
    import pyarrow as pa

    keys = ", ".join(view.entity.keys)
    every = rows if before is None else pa.concat_tables([before.select(rows.column_names), rows])
    session.connection.register("_every", every)
    return session.connection.sql(
        f"select * from _every qualify row_number() over (partition by {keys} "
        f"order by event_timestamp desc) = 1 order by {keys}"
    ).to_arrow_table()


def chunks_of(session: Session, view: FeatureView, end: int) -> Iterator[Reach]:
    """From the first event to the tick ``end``, cut where a month begins, so that no chunk holds
    many more than ``CHUNK`` events."""
    first: int | None = None
    for cut in month_cuts(session.zones[view.log.name].values(), session.seconds):
        if cut <= end:
            yield Reach(first=first, last=cut - 1)
            first = cut
    yield Reach(first=first, last=end)


def month_cuts(zones: Iterable[Zone], seconds: int) -> Iterator[int]:
    """Ticks (their numbers) at which months begin, after about every ``CHUNK`` events."""
    held = 0
    for zone in sorted(zones):
        if held + zone.events > CHUNK and held:
            start = datetime.fromtimestamp(zone.first, tz=timezone.utc).replace(
                day=1, hour=0, minute=0, second=0, microsecond=0
            )
            yield -(-epoch_seconds(start) // seconds)
            held = 0
        held += zone.events


def build_training_set(
    home: Home,
    use_case: UseCase,
    tables: list[Table],
    views: list[Table],
    finish: Callable[[pa.Table], pa.Table] | None = None,
    until: datetime | None = None,
) -> Table:
    """Every request with the features of its tick, its label and when the label was known;
    stored by the month of its prediction time. ``finish`` adds columns to each month's rows.

    ``until`` (aware): the last tick of the views. A request that reads a later one is left out:
    it would get that one's values, though windows have emptied since and facts have come.

    Raises:
        SourceError: a value outside its declared bounds, or a request twice.
    """
    session = open_session(home, use_case, tables)
    parts = _joined(session, views, until)
    done = parts if finish is None else ((month, finish(rows)) for month, rows in parts)
    return write_parts(home, TRAINING_SET, done)


def _joined(
    session: Session, views: list[Table], until: datetime | None
) -> Iterator[tuple[str, pa.Table]]:
    """The training set's parts, a chunk of months at a time."""
    from feature_repo.schemas import training_set_schema, validate_table

    use_case, zones = session.use_case, session.zones[REQUESTS]
    lag, stop = int(use_case.lag.total_seconds()), None
    if until is not None:
        stop = (last_tick(session, until) + 1) * session.seconds + lag
    cuts = [cut * session.seconds for cut in month_cuts(zones.values(), session.seconds)]
    cuts = [cut for cut in cuts if stop is None or cut < stop]
    for start, end in zip([None, *cuts], [*cuts, stop], strict=True):
        session.see(use_case.requests_sql, zones, start or -math.inf, end or math.inf)
        for view in use_case.views:
            back = view.ttl + use_case.lag + use_case.tick
            since = -math.inf if start is None else start - back.total_seconds()
            files = files_between(named(views, view.name), since, end or math.inf)
            bind(session.connection, view.name, files)
        given = {"start": start, "end": end}
        values = {name: at * 1_000_000 for name, at in given.items() if at is not None}
        rows = session.ask(to_duckdb(training_set_sql(use_case, *values)), values)
        validate_table(rows, training_set_schema(use_case))
        yield from by_month(rows, "prediction_time").items()
