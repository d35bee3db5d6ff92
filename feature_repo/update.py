"""From one version of the feature views to the next: corrections, then the ticks that are new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView, UseCase
from feature_repo.corrections import MANY, Corrected, correct, find_changes, find_events
from feature_repo.engine import (
    Built,
    Session,
    build_views,
    chunks_of,
    compute,
    last_rows,
    last_tick,
    open_session,
    store_view,
)
from feature_repo.home import Home
from feature_repo.sql import Reach
from feature_repo.tables import (
    Table,
    by_month,
    named,
    parts_of,
    read_table,
    write_parts,
    write_table,
)
from feature_repo.zones import mapped_table

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Updated:
    """The views as of ``built.until``. ``corrected``: rows of earlier ticks that differ now;
    ``added``: rows of new ticks; ``rebuilt``: views computed from the start."""

    built: Built
    corrected: int
    added: int
    rebuilt: int


def update_views(
    home: Home, use_case: UseCase, tables: list[Table], before: Built | None, until: datetime | None
) -> Updated:
    """Bring every feature view to the raw ``tables`` and to ``until``; equal, byte for byte, to
    computing it from the start, as is done where a raw table's columns changed. ``until=None``:
    as far as the data reach; never back in time.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    known = before.zones if before else None
    session = open_session(home, use_case, tables, known)
    end = max(last_tick(session, until), before.until // session.seconds if before else 0)
    if before is None:
        return rebuilt(build_views(home, use_case, tables, until))
    others = set()  # tables with other columns: their rows cannot be compared
    for table in tables:
        if (older := named(before.tables, table.name)).schema_hash == table.schema_hash:
            find_changes(session, older, table)
        else:
            others.add(table.name)
    views, states, counts = [], [], []
    for view in use_case.views:
        if mapped_table(view.log.sql) in {None, *others}:
            stored, state, count = _rebuilt(session, view, end)
        else:
            stored, state, count = _update(session, view, before, end)
        views.append(stored)
        states.append(state)
        counts.append(count)
    built = Built(end * session.seconds, tables, views, states, session.zones)
    return Updated(built, *(sum(column) for column in zip(*counts, strict=True)))


def rebuilt(built: Built) -> Updated:
    """Views that were computed from the start."""
    return Updated(built, 0, sum(view.rows for view in built.views), len(built.views))


def _update(
    session: Session, view: FeatureView, before: Built, end: int
) -> tuple[Table, Table, tuple[int, int, int]]:
    """The view and its state at ``end``; rows corrected, rows added, and 1 if it was rebuilt."""
    stored, state = named(before.views, view.name), named(before.states, f"state_{view.name}")
    then = before.until // session.seconds
    changes = find_events(session, view, then)
    if changes > MANY:
        return _rebuilt(session, view, end)
    corrected = Corrected(months={}, state=read_table(state), rows=0)
    if changes:
        corrected = correct(session, view, stored, corrected.state, then)
    if not corrected.months and then == end:
        return stored, state, (0, 0, 0)
    advance = _Advance(session, view, stored, corrected, then, end)
    table = write_parts(session.home, view.name, advance.parts(), parts_of(stored).values())
    new_state = write_table(session.home, f"state_{view.name}", advance.state)
    return table, new_state, (corrected.rows, advance.added, 0)


def _rebuilt(
    session: Session, view: FeatureView, end: int
) -> tuple[Table, Table, tuple[int, int, int]]:
    stored, state = store_view(session, view, chunks_of(session, view, end))
    return stored, state, (0, stored.rows, 1)


class _Advance:
    """The months that change when a view goes on from the tick ``then`` to ``end``."""

    def __init__(
        self, session: Session, view: FeatureView, stored: Table, corrected: Corrected, then: int,
        end: int,
    ) -> None:  # fmt: skip
        self.state = corrected.state
        self.added = 0
        self._session, self._view = session, view
        self._months = dict(corrected.months)
        self._files = parts_of(stored)
        self._span = (then + 1, end)

    def parts(self) -> Iterator[tuple[str, pa.Table]]:
        """Each changed month, whole."""
        for reach in self._chunks():
            rows = compute(self._session, self._view, reach, self.state)
            self.state = last_rows(self._session, self._view, rows, self.state)
            self.added += rows.num_rows
            for month, part in by_month(rows, "event_timestamp").items():
                yield month, self._merged(month, part)
        yield from self._months.items()

    def _chunks(self) -> Iterator[Reach]:
        first, end = self._span
        for reach in chunks_of(self._session, self._view, end):
            if reach.last >= first:
                yield Reach(first=max(first, reach.first or first), last=reach.last)

    def _merged(self, month: str, rows: pa.Table) -> pa.Table:
        """The month's rows so far, and the new ones."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        held = self._months.pop(month, None)
        if held is None:
            if month not in self._files:
                return rows
            held = pq.read_table(self._files[month])
        keys = [(key, "ascending") for key in (*self._view.entity.keys, "event_timestamp")]
        return pa.concat_tables([held, rows]).sort_by(keys)
