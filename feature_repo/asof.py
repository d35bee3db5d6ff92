"""The offline rows of many questions: which stored row each one reads, by an as-of join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView
from feature_repo.duckdb_session import connect
from feature_repo.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa


def rows_at(views: Sequence[FeatureView], tables: list[Table], asked: pa.Table) -> pa.Table:
    """Stored features of each asked (entity, tick), in the order of ``asked.id``.

    Args:
        views: the views to read.
        tables: their stored tables, each under its view's name.
        asked: ``id`` (any order, unique), every entity key of the views (string, null: not
            known) and ``tick`` (UTC instant).

    Returns:
        ``id``, and for each view ``<view>_tick`` (tick of the row that was read, null where there
        is none or it is older than the view's ttl) and its features (null: missing).
    """
    columns = ["asked.id"]
    joins = []
    for view in views:
        ttl = int(view.ttl.total_seconds())
        living = f"epoch(asked.tick) - epoch({view.name}.event_timestamp) <= {ttl}"
        names = {"event_timestamp": f"{view.name}_tick"} | {f.name: f.name for f in view.features}
        columns += [
            f'CASE WHEN {living} THEN {view.name}."{name}" END AS "{alias}"'
            for name, alias in names.items()
        ]
        # What no question can read is not sorted: rows past every tick, and those past the ttl.
        joins.append(
            f'ASOF LEFT JOIN (SELECT * FROM "{view.name}" WHERE event_timestamp BETWEEN '
            f"(SELECT min(tick) - to_seconds({ttl}) FROM asked) AND "
            f"(SELECT max(tick) FROM asked)) AS {view.name} ON "
            + "".join(f"asked.{key} = {view.name}.{key} AND " for key in view.entity.keys)
            + f"asked.tick >= {view.name}.event_timestamp"
        )
    with connect(tables) as session:
        session.register("asked", asked)
        query = f"SELECT {', '.join(columns)} FROM asked {' '.join(joins)} ORDER BY asked.id"
        rows: pa.Table = session.sql(query).to_arrow_table()
    return rows
