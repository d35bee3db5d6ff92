"""Worlds cut off at a prediction's tick: what was not yet known then is deleted.

Every sampled flight gets a world of its own. Worlds are kept apart by a suffix to every key, so
that one run of the engine computes many of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import Any

import pandas as pd
import pyarrow as pa

from feature_repo.contract import UseCase
from feature_repo.engine import build_training_set, compute_views
from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_table

KEYS = ("carrier", "origin", "dest", "tailnum")
REPORT = pd.Timedelta(minutes=15)
LAG, TICK = pd.Timedelta(minutes=5), "15min"
SCHEDULE = pd.Timedelta(hours=2)  # how far the published schedule is read ahead
FOREVER = timedelta(days=10_000)


def unknown_after(flights: pd.DataFrame, now: pd.Timestamp) -> pd.DataFrame:
    """The flights as known at ``now``: outcomes that were not yet reported are gone."""
    left = flights["scheduled_departure"] + pd.to_timedelta(flights["dep_delay"], unit="min")
    landed = flights["scheduled_arrival"] + pd.to_timedelta(flights["arr_delay"], unit="min")
    return flights.assign(
        dep_delay=flights["dep_delay"].where(left + REPORT <= now),
        arr_delay=flights["arr_delay"].where(landed + REPORT <= now),
    )


def reach(use_case: UseCase, forever: bool) -> dict[tuple[str, ...], timedelta]:
    """How far back a feature of an entity can look: its longest window, then its ttl or that
    window again, whichever is longer (an old row makes a count zero instead of missing; a mean of
    nothing is missing in any case), and two days for the longest delay. Flights that left the
    pending log before cancel themselves out."""
    spans: dict[tuple[str, ...], timedelta] = {}
    for view in use_case.views:
        windows = [spec.window or timedelta(0) for spec in view.features]
        span = max(windows) + timedelta(days=2)
        if any(spec.aggregation != "mean" for spec in view.features):
            span += max(view.log.ttl, *windows)
        spans[view.entity.keys] = max(spans.get(view.entity.keys, span), span)
    return dict.fromkeys(spans, FOREVER) if forever else spans


def tick_of(now: pd.Timestamp) -> pd.Timestamp:
    """DESIGN.md's tick rule, worked out here: the prediction time less the lag of five minutes,
    rounded down to fifteen."""
    return (now - LAG).floor(TICK)


def request_ids(flights: pd.DataFrame) -> pd.Series:
    """date_carrier_flight_origin."""
    parts = (flights[name] for name in ("carrier", "flight", "origin"))
    return reduce(lambda left, right: left + "_" + right, parts, flights["date"])


def world(
    use_case: UseCase,
    tables: Mapping[str, pd.DataFrame],
    asked: pd.Series,
    mark: str,
    forever: bool = False,
) -> dict[str, pd.DataFrame]:
    """Flights and weather as known at the tick that ``asked`` (a training row) reads."""
    now, flights = tick_of(asked["prediction_time"]), tables["flights"]
    assert asked["tick"] == now, asked["request_id"]
    age = now - flights["scheduled_departure"]
    near = age >= -SCHEDULE
    wanted = pd.Series(False, index=flights.index)
    for keys, span in reach(use_case, forever).items():
        same = near & (age <= span)
        for key in keys:
            same &= flights[key] == asked[key]
        wanted |= same
    cut = unknown_after(flights[wanted], now)
    cut = cut.astype(dict.fromkeys(KEYS, object))
    cut = cut.assign(asked=request_ids(cut) == asked["request_id"])
    # What other entities there are must not matter either: they become one.
    for key, other in (*((key, "-") for key in KEYS[:-1]), ("flight", "0"), ("tailnum", None)):
        cut[key] = cut[key].where(cut[key] == asked[key], other)
    weather = tables["weather"]
    over = now - weather["time_hour"]
    seen = (over >= pd.Timedelta(hours=1)) & (weather["origin"] == asked["origin"])
    recent = weather[seen & (over <= (FOREVER if forever else timedelta(days=15)))]
    return {
        "flights": cut.assign(**{key: cut[key] + mark for key in KEYS}),
        "weather": recent.assign(origin=recent["origin"] + mark),
    }  # fmt: skip


Engine = Callable[[Home, UseCase, list[Table]], Table]


def on_duckdb(home: Home, use_case: UseCase, tables: list[Table]) -> Table:
    """The training set of raw tables."""
    return build_training_set(home, use_case, tables, compute_views(home, use_case, tables))


def recompute(
    home: Home,
    use_case: UseCase,
    worlds: list[dict[str, pd.DataFrame]],
    engine: Engine = on_duckdb,
) -> Any:
    """Training rows of the asked flights, each computed in its own world."""
    only = replace(
        use_case,
        requests_sql=f"select asked_of.* from ({use_case.requests_sql} where asked) as asked_of",
    )
    tables = [
        write_table(
            home, name,
            pa.Table.from_pandas(pd.concat([w[name] for w in worlds]), preserve_index=False),
        )
        for name in ("flights", "weather")
    ]  # fmt: skip
    frame = read_table(engine(home, only, tables)).to_pandas()
    frame["request_id"] = frame["request_id"].str.replace(r"#\d+", "", regex=True)
    return frame.set_index("request_id")
