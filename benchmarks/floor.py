"""The comparison's nine flights features by hand, in polars and in pandas, on the same tick grid.

Written for speed, not for reuse: one use case, no declarations, no checks. Sums are whole
thousandths, so a window is a running sum of +value at its tick and -value when it leaves, and
no order of rows changes a digit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

TICK = 15 * 60 * 1_000_000  # microseconds
TICKS_A_HOUR = 4
ORDER = ["available_at", "event_timestamp", "flight", "carrier", "origin"]


def polars_views(flights: list[Path], weather: list[Path], out: Path) -> None:
    """Write each view's Parquet file into ``out``."""
    import polars as pl

    raw = pl.scan_parquet(flights)
    late = pl.duration(minutes=pl.col("arr_delay").cast(pl.Int64))
    arrived = raw.filter(pl.col("arr_delay").is_not_null()).select(
        "carrier", "origin", "tailnum", "flight", value="arr_delay",
        event_timestamp=pl.col("scheduled_arrival") + late,
    )  # fmt: skip
    left = raw.filter(pl.col("dep_delay").is_not_null()).select(
        "carrier", "origin", "tailnum", "flight", value="dep_delay",
        event_timestamp=pl.col("scheduled_departure")
        + pl.duration(minutes=pl.col("dep_delay").cast(pl.Int64)),
    )  # fmt: skip
    arrivals, departures = (
        _known(log, pl.duration(minutes=15)).collect() for log in (arrived, left)
    )
    views = {
        "origin_arrivals": _mean(arrivals, ["origin"], 3, "origin_arr_delay_3h"),
        "carrier_origin_arrivals": _mean(
            arrivals, ["carrier", "origin"], 24, "carrier_origin_arr_delay_24h"
        ),
        "tail_arrivals": _last_flight(arrivals, "tail_arr_delay", "tail_arr_age"),
        "tail_departures": _last_flight(departures, "tail_dep_delay", "tail_dep_age"),
        "origin_weather": _weather(pl.scan_parquet(weather)),
    }
    for name, view in views.items():
        view.collect().write_parquet(out / f"{name}.parquet", compression="zstd")


def _known(log: pl.LazyFrame, after: pl.Expr) -> pl.LazyFrame:
    """The log with ``available_at`` and its tick, the first one at or after it."""
    import polars as pl

    return log.with_columns(available_at=pl.col("event_timestamp") + after).with_columns(
        tick=(pl.col("available_at").to_physical() + (TICK - 1)) // TICK
    )


def _mean(events: pl.DataFrame, keys: list[str], hours: int, name: str) -> pl.LazyFrame:
    """Mean of the last hours at every tick at which an event comes or leaves."""
    import polars as pl

    come = (
        events.lazy()
        .select(*keys, "tick", top=(pl.col("value") * 1000).round().cast(pl.Int64))
        .group_by(*keys, "tick")
        .agg(pl.col("top").sum(), bottom=pl.len().cast(pl.Int64))
    )
    leave = come.select(
        *keys, pl.col("tick") + hours * TICKS_A_HOUR, -pl.col("top"), -pl.col("bottom")
    )
    rows = pl.concat([come, leave]).group_by(*keys, "tick").agg(pl.col("top", "bottom").sum())
    total = [pl.col(c).cum_sum().over(keys) for c in ("top", "bottom")]
    return (
        rows.sort(*keys, "tick")
        .with_columns(total)
        .select(*keys, *_instants(), (_mean_of()).alias(name))
    )


def _mean_of() -> pl.Expr:
    import polars as pl

    return pl.when(pl.col("bottom") != 0).then(pl.col("top") / 1000 / pl.col("bottom"))


def _last_flight(events: pl.DataFrame, delay: str, at: str) -> pl.LazyFrame:
    """Delay and instant of an aircraft's last flight, as of each tick with an event."""
    import polars as pl

    rows = events.lazy().filter(pl.col("tailnum").is_not_null()).sort("tailnum", *ORDER)
    last = (pl.col("tailnum") != pl.col("tailnum").shift(-1)) | (
        pl.col("tick") != pl.col("tick").shift(-1)
    )
    return rows.filter(last.fill_null(True)).select(
        "tailnum", *_instants(), pl.col("value").alias(delay),
        (pl.col("event_timestamp").to_physical() // 1_000_000).cast(pl.Float64).alias(at),
    )  # fmt: skip


def _weather(raw: pl.LazyFrame) -> pl.LazyFrame:
    """The last observation that is not null of each origin, column by column."""
    import polars as pl

    names = ["temp", "wind_speed", "visib"]
    rows = _known(
        raw.select("origin", *names, event_timestamp="time_hour"), pl.duration(hours=1)
    ).sort("origin", "available_at")
    filled = rows.with_columns(pl.col(names).forward_fill().over("origin"))
    return filled.unique(["origin", "tick"], keep="last", maintain_order=True).select(
        "origin", *_instants(), *names
    )


def _instants() -> list[pl.Expr]:
    """Tick and creation time: the same instant, in UTC."""
    import polars as pl

    instant = (pl.col("tick") * TICK).cast(pl.Datetime("us", "UTC"))
    return [instant.alias("event_timestamp"), instant.alias("created_timestamp")]
