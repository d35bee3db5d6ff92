"""Nine flights features by hand, in polars and in pandas, on the same tick grid, as the same files.

Written for speed, not for reuse: one use case, no declarations, no checks. Sums are whole
thousandths, so that a window is a running sum of +value at its tick and -value when it leaves,
and no order of rows changes a digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

TICK = 15 * 60 * 1_000_000  # microseconds
TICKS_A_HOUR = 4
REPORTED = 15 * 60 * 1_000_000
KEYS = ["flight", "carrier", "origin"]
ORDER = ["available_at", "event_timestamp", *KEYS]
OBSERVED = {"temp": "origin_temp", "wind_speed": "origin_wind_speed", "visib": "origin_visib"}
MEANS = {  # view: keys, hours, feature
    "origin_arrivals": (["origin"], 3, "origin_arr_delay_3h"),
    "carrier_origin_arrivals": (["carrier", "origin"], 24, "carrier_origin_arr_delay_24h"),
}
LASTS = {  # view: log, features
    "tail_arrivals": ("arrivals", "tail_arr_delay", "tail_arr_age"),
    "tail_departures": ("departures", "tail_dep_delay", "tail_dep_age"),
}


def polars_views(flights: list[Path], weather: list[Path], until: int, out: Path) -> None:
    """Write each view's rows up to ``until`` (epoch seconds) into a folder of its name in
    ``out``, one Parquet file a month."""
    import polars as pl

    raw = pl.scan_parquet(flights)
    logs = {
        "arrivals": _polars_log(raw, "arr_delay", "scheduled_arrival").collect(),
        "departures": _polars_log(raw, "dep_delay", "scheduled_departure").collect(),
    }
    for name, (keys, hours, feature) in MEANS.items():
        view = _polars_mean(logs["arrivals"], keys, hours, feature)
        _write(
            view.filter(pl.col("event_timestamp").to_physical() <= until * 1_000_000), out / name
        )
    for name, (log, delay, at) in LASTS.items():
        _write(_polars_last(logs[log], delay, at), out / name)
    _write(_polars_weather(pl.scan_parquet(weather)), out / "origin_weather")


def _polars_log(raw: pl.LazyFrame, delay: str, scheduled: str) -> pl.LazyFrame:
    """Events with a delay; instants as microseconds."""
    import polars as pl

    at = pl.col(scheduled).to_physical() + (pl.col(delay) * 60_000_000).cast(pl.Int64)
    events = raw.filter(pl.col(delay).is_not_null()).select(
        *KEYS, "tailnum", value=delay, event_timestamp=at
    )
    return events.with_columns(
        available_at=pl.col("event_timestamp") + REPORTED,
        tick=(pl.col("event_timestamp") + (REPORTED + TICK - 1)) // TICK,
    )


def _polars_mean(events: pl.DataFrame, keys: list[str], hours: int, feature: str) -> pl.DataFrame:
    """Mean of the last hours, at every tick at which an event comes or leaves."""
    import polars as pl

    come = (
        events.lazy()
        .select(*keys, "tick", top=(pl.col("value") * 1000).round().cast(pl.Int64))
        .group_by(*keys, "tick")
        .agg(pl.col("top").sum(), bottom=pl.len().cast(pl.Int64))
    )
    later = pl.col("tick") + hours * TICKS_A_HOUR
    leave = come.select(*keys, later, -pl.col("top"), -pl.col("bottom"))
    rows = pl.concat([come, leave]).group_by(*keys, "tick").agg(pl.col("top", "bottom").sum())
    known = rows.sort(*keys, "tick").with_columns(pl.col("top", "bottom").cum_sum().over(keys))
    mean = pl.when(pl.col("bottom") != 0).then(pl.col("top") / 1000 / pl.col("bottom"))
    return known.select(*keys, *_instants(), mean.alias(feature)).collect()


def _polars_last(events: pl.DataFrame, delay: str, at: str) -> pl.DataFrame:
    """Delay and instant of an aircraft's last flight, at each tick with an event."""
    import polars as pl

    rows = events.lazy().filter(pl.col("tailnum").is_not_null()).sort("tailnum", *ORDER)
    last = pl.any_horizontal(pl.col(c) != pl.col(c).shift(-1) for c in ("tailnum", "tick"))
    instant = (pl.col("event_timestamp") // 1_000_000).cast(pl.Float64)
    return (
        rows.filter(last.fill_null(True))
        .select("tailnum", *_instants(), pl.col("value").alias(delay), instant.alias(at))
        .collect()
    )


def _polars_weather(raw: pl.LazyFrame) -> pl.DataFrame:
    """The last observation that is not null, column by column, known an hour later."""
    import polars as pl

    tick = (pl.col("time_hour").to_physical() + (3_600_000_000 + TICK - 1)) // TICK
    rows = raw.select("origin", *OBSERVED, tick=tick, time_hour="time_hour")
    filled = rows.sort("origin", "time_hour").with_columns(
        pl.col(list(OBSERVED)).forward_fill().over("origin")
    )
    every_tick = filled.unique(["origin", "tick"], keep="last", maintain_order=True)
    return every_tick.select(
        "origin", *_instants(), pl.col(list(OBSERVED)).name.map(OBSERVED.get)
    ).collect()


def _instants() -> list[pl.Expr]:
    """Tick and creation time: the same instant, in UTC."""
    import polars as pl

    instant = (pl.col("tick") * TICK).cast(pl.Datetime("us", "UTC"))
    return [instant.alias("event_timestamp"), instant.alias("created_timestamp")]


def _write(view: pl.DataFrame, folder: Path) -> None:
    """One file a month."""
    import polars as pl

    folder.mkdir()
    month = pl.col("event_timestamp").dt.strftime("%Y-%m").alias("month")
    parts = view.with_columns(month).partition_by("month", as_dict=True, include_key=False)
    for (name,), part in parts.items():
        part.write_parquet(folder / f"{name}.parquet", compression="zstd")


def pandas_views(flights: list[Path], weather: list[Path], until: int, out: Path) -> None:
    """The same files by pandas."""
    delays = {"arr_delay": "scheduled_arrival", "dep_delay": "scheduled_departure"}
    raw = _read(flights, [*KEYS, "tailnum", *delays, *delays.values()])
    for key in (*KEYS, "tailnum"):
        raw[key] = raw[key].astype("category")
    made = zip(("arrivals", "departures"), delays.items(), strict=True)
    logs = {name: _pandas_log(raw, delay, scheduled) for name, (delay, scheduled) in made}
    del raw
    for name, (keys, hours, feature) in MEANS.items():
        view = _pandas_mean(logs["arrivals"], keys, hours, feature)
        _write_pandas(view[view["tick"] * TICK <= until * 1_000_000], out / name)
    for name, (log, delay, at) in LASTS.items():
        _write_pandas(_pandas_last(logs[log], delay, at), out / name)
    observed = _read(weather, ["origin", "time_hour", *OBSERVED])
    _write_pandas(_pandas_weather(observed), out / "origin_weather")


def _read(files: list[Path], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)


def _micros(column: pd.Series) -> pd.Series:
    return column.astype("datetime64[us, UTC]").astype("int64")


def _pandas_log(raw: pd.DataFrame, delay: str, scheduled: str) -> pd.DataFrame:
    rows = raw.loc[raw[delay].notna(), [*KEYS, "tailnum", delay, scheduled]]
    at = _micros(rows[scheduled]) + (rows[delay] * 60_000_000).astype("int64")
    events = rows[[*KEYS, "tailnum"]].assign(value=rows[delay], event_timestamp=at)
    known = at + REPORTED
    return events.assign(available_at=known, tick=(known + (TICK - 1)) // TICK)


def _pandas_mean(events: pd.DataFrame, keys: list[str], hours: int, feature: str) -> pd.DataFrame:
    import pandas as pd

    rows = events[[*keys, "tick"]].assign(
        top=(events["value"] * 1000).round().astype("int64"), bottom=1
    )
    come = rows.groupby([*keys, "tick"], observed=True, as_index=False).sum()
    leave = come.assign(
        tick=come["tick"] + hours * TICKS_A_HOUR, top=-come["top"], bottom=-come["bottom"]
    )
    both = pd.concat([come, leave]).groupby([*keys, "tick"], observed=True, as_index=False).sum()
    known = both.groupby(keys, observed=True)[["top", "bottom"]].cumsum()
    mean = known["top"] / 1000 / known["bottom"].where(known["bottom"] != 0)
    return both[[*keys, "tick"]].assign(**{feature: mean})


def _pandas_last(events: pd.DataFrame, delay: str, at: str) -> pd.DataFrame:
    rows = events[events["tailnum"].notna()].sort_values(["tailnum", *ORDER])
    last = rows.drop_duplicates(["tailnum", "tick"], keep="last")
    instant = (last["event_timestamp"] // 1_000_000).astype("float64")
    return last[["tailnum", "tick"]].assign(**{delay: last["value"], at: instant})


def _pandas_weather(raw: pd.DataFrame) -> pd.DataFrame:
    rows = raw.sort_values(["origin", "time_hour"])
    rows[list(OBSERVED)] = rows.groupby("origin")[list(OBSERVED)].ffill()
    rows["tick"] = (_micros(rows["time_hour"]) + (3_600_000_000 + TICK - 1)) // TICK
    last = rows.drop_duplicates(["origin", "tick"], keep="last")
    return last[["origin", "tick", *OBSERVED]].rename(columns=OBSERVED)


def _write_pandas(view: pd.DataFrame, folder: Path) -> None:
    import pandas as pd

    folder.mkdir()
    instant = pd.to_datetime(view["tick"] * TICK, unit="us", utc=True).astype("datetime64[us, UTC]")
    keys = [name for name in view.columns if name in ("carrier", "origin", "tailnum")]
    values = view.columns[len(keys) + 1 :]
    whole = view[keys].astype(object).assign(event_timestamp=instant, created_timestamp=instant)
    whole[values] = view[values]
    for month, part in _by_month(whole):
        part.to_parquet(folder / f"{month}.parquet", compression="zstd", index=False)


def _by_month(view: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    naive = view["event_timestamp"].dt.tz_localize(None)
    for month, part in view.groupby(naive.dt.to_period("M"), sort=False):
        yield str(month), part
