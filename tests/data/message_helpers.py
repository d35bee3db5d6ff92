"""Two days of weather at three airports, and messages about the hours after them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo import offline
from feature_repo.contract import FeatureSpec, UseCase
from feature_repo.home import Home
from feature_repo.messages import Message
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.tables import named, read_table, write_raw
from serving.online import OnlineStore

WEATHER = get_use_case("weather")
START = datetime(2013, 6, 30, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
# A bound that no rule of a message knows: three observations of a station in three hours.
FEW = FeatureSpec(
    name="few", entity=WEATHER.features[0].entity, log=WEATHER.features[0].log, value="temp",
    aggregation="count", window=3 * HOUR, bounds=(0.0, 3.0), default=0.0,
)  # fmt: skip
NARROW = replace(WEATHER, features=(*WEATHER.features, FEW))


def row(origin: str = "JFK", hours: int = 0, **values: Any) -> dict[str, Any]:
    """An hour's weather, ``hours`` after ``START``."""
    return {
        "origin": origin, "time_hour": START + hours * HOUR, "temp": 70.0, "dewp": 60.0,
        "humid": 50.0, "wind_speed": 5.0, "precip": 0.0, "pressure": None, "visib": 10.0, **values,
    }  # fmt: skip


SCHEMA = pa.schema(
    {name: pa.float64() for name in row()}
    | {"origin": pa.string(), "time_hour": pa.timestamp("us", "UTC")}
)


def message(hours: int = 0, reported: float | None = None, **values: Any) -> Message:
    """A message about an hour's weather, reported when it is over, or ``reported`` hours after
    ``START``."""
    at = START + (hours + 1 if reported is None else reported) * HOUR
    return Message(table="weather", row=row(hours=hours, **values), reported_at=at)


def first_version(root: Path, use_case: UseCase = WEATHER) -> Home:
    """A home with the two days as its first version."""
    home, declared = Home(root=root), use_case.tables[0]
    rows = [row(origin, -hours) for origin in ("EWR", "JFK", "LGA") for hours in range(1, 49)]
    table = write_raw(home, declared, pa.Table.from_pylist(rows, schema=SCHEMA))
    offline.update(home, use_case, [table], until=START)
    return home


def raw(home: Home, use_case: UseCase = WEATHER) -> list[dict[str, Any]]:
    """The raw rows of the newest version."""
    table = read_table(named(offline.newest(home, use_case).built.tables, "weather"))
    return list(table.to_pylist())


def served(home: Home, name: str = "temp_now", use_case: UseCase = WEATHER) -> float:
    """JFK's feature as the server reads it."""
    with closing(OnlineStore(rows_of(home, use_case), use_case)) as store:
        return float(store.read([{"origin": "JFK"}]).columns[name][0])
