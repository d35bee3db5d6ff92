"""The online store of a use case, filled from the feature views as of one tick.

That is the one way in for what becomes known late, too: it comes as a message (``stream``), which
corrects the views that the store is filled from. Feast's SDK has its own (``feast_online``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.contract import FeatureView, UseCase
from feature_repo.duckdb_session import connect
from feature_repo.home import Home, digest_of
from feature_repo.online_rows import rows_of
from feature_repo.packed import StoreState, entity_key, microseconds, row_format
from feature_repo.tables import Table
from feature_repo.ticks import EPOCH

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Materialisation:
    """An online store: its tick (ISO 8601, UTC), its rows over all views, how many of them were
    written, how many others deleted, and where it is."""

    tick: str
    rows: int
    written: int
    deleted: int
    store: str


def materialise(
    home: Home, use_case: UseCase, views: list[Table], until: datetime
) -> Materialisation:
    """Make the online store hold each entity's last row as of the last tick at or before ``until``.

    ``views`` are the views' tables, or tables of the same columns with one row an entity. Rows
    that the store has already are not written again; what it has beside them goes. Rows and
    tick change in one step.

    Raises:
        StateError: the store does not answer, or a view's table is missing.
    """
    tick = EPOCH + ((until - EPOCH) // use_case.tick) * use_case.tick
    state = StoreState(
        use_case=use_case.name, declaration=use_case.declaration, tick=tick,
        content=digest_of({view.name: view.digest for view in views}),
    )  # fmt: skip
    rows: dict[bytes, bytes] = {}
    with connect(views) as connection:
        for view in use_case.views:
            last = connection.sql(last_rows_sql(view, tick)).to_arrow_table()
            rows |= pack_rows(view, last)
    store = rows_of(home, use_case)
    changes = store.replace(rows, state.pack())
    return Materialisation(
        tick=tick.isoformat(), rows=len(rows), written=changes.written, deleted=changes.deleted,
        store=store.name,
    )  # fmt: skip


def last_rows_sql(view: FeatureView, tick: datetime) -> str:
    """DuckDB's SELECT of each entity's last row at ``tick`` or before."""
    keys = ", ".join(view.entity.keys)
    names = ", ".join(f.name for f in view.features)
    return (
        "SELECT unnest(arg_max(v, (event_timestamp, created_timestamp))) FROM "
        f"(SELECT {keys}, event_timestamp, created_timestamp, {names} FROM {view.name}) v "
        f"WHERE event_timestamp <= make_timestamptz({microseconds(tick)}) GROUP BY {keys}"
    )


def pack_rows(view: FeatureView, table: pa.Table) -> dict[bytes, bytes]:
    """Online rows of a view's rows (of an entity's several, the newest), by their key."""
    form, names = row_format(view), view.entity.keys
    entities = zip(*(table[name].to_pylist() for name in names), strict=True)
    keys = [form.key(entity_key(dict(zip(names, e, strict=True)))) for e in entities]
    values = np.empty((table.num_rows, len(view.features)), dtype=np.float64)
    for i, spec in enumerate(view.features):
        values[:, i] = table[spec.name].to_numpy()  # a null becomes NaN
    event, created = (_micros(table[f"{which}_timestamp"]) for which in ("event", "created"))
    rows: dict[bytes, bytes] = {}
    for key, row in zip(keys, form.pack(event, created, values), strict=True):
        rows[key] = max(row, rows.get(key, b""))
    return rows


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    import pyarrow as pa

    micros: NDArray[np.int64] = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    return micros
