"""A replay of flights: what was known of the raw tables at an instant, and who reported it when.

A schedule is known a day ahead; a departure and an arrival are reported 15 minutes after them,
and the weather of an hour when it is over. Airports are reference data: nobody reports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.messages import Message

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

AHEAD = timedelta(days=1)
REPORT = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def known(tables: Mapping[str, pa.Table], at: datetime) -> dict[str, pa.Table]:
    """The raw tables as they were known at an instant (aware), in the order of their rows."""
    made = {}
    for name, table in tables.items():
        frame = _reported(name, table)
        rows = frame.filter(frame["known"] <= at) if "known" in frame.columns else frame
        made[name] = _as_of(rows, at).select(table.column_names).to_arrow().cast(table.schema)
    return made


def reports(tables: Mapping[str, pa.Table], since: datetime, until: datetime) -> list[Message]:
    """What was reported after ``since`` and up to ``until``, in order of time: each time the
    whole row as it was then known."""
    import polars as pl

    told: list[Message] = []
    for name, table in tables.items():
        frame = _reported(name, table)
        times = [c for c in ("known", "departed", "arrived") if c in frame.columns]
        for column in times:
            now = frame.filter(pl.col(column).is_between(since, until, closed="right"))
            rows = _as_of(now, pl.col(column)).select(table.column_names).to_dicts()
            instants = now[column].to_list()
            told += [
                Message(table=name, row=row, reported_at=at)
                for row, at in zip(rows, instants, strict=True)
            ]
    return sorted(told, key=lambda message: message.reported_at)


def _reported(name: str, table: pa.Table) -> pl.DataFrame:
    """The table, and when each row's facts were first reported."""
    import polars as pl

    frame = pl.DataFrame(table)
    if name == "weather":
        return frame.with_columns(known=pl.col("time_hour") + HOUR)
    if name != "flights":
        return frame
    minute = pl.duration(minutes=1)
    return frame.with_columns(
        known=pl.col("scheduled_departure") - AHEAD,
        departed=pl.col("scheduled_departure") + pl.col("dep_delay") * minute + REPORT,
        arrived=pl.col("scheduled_arrival") + pl.col("arr_delay") * minute + REPORT,
    )


def _as_of(frame: pl.DataFrame, at: Any) -> pl.DataFrame:
    """The rows without the outcomes that were reported after ``at``."""
    import polars as pl

    return frame.with_columns(
        pl.when(pl.col(reported) <= at).then(pl.col(outcome)).alias(outcome)
        for outcome, reported in (("dep_delay", "departed"), ("arr_delay", "arrived"))
        if reported in frame.columns
    )
