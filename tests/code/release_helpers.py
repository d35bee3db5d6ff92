"""A home in which a small flights model may be released, and what may be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from serving_helpers import FLIGHT, TICK

from feature_repo import offline
from feature_repo.contract import UseCase
from feature_repo.engine import Built
from feature_repo.home import Home
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.store import pack_rows
from feature_repo.tables import Table, named, read_table, write_table
from serving import certificate
from tasks.release import Release, release_model
from tasks.steps import StepLog

FLIGHTS = get_use_case("flights")
ASKED = datetime(2013, 11, 5, 14, 5, tzinfo=timezone.utc)
INSTANT = pa.timestamp("us", tz="UTC")


def training_set(home: Home, rows: int = 3, **changes: float) -> Table:
    """Rows that read the store's tick as the store holds it, one without an aircraft, and one
    of another tick; ``changes`` are features that differ from the store's."""
    values: dict[str, list[Any]] = {"request_id": [f"flight-{i}" for i in range(rows + 1)]}
    values["prediction_time"] = [ASKED] * rows + [ASKED + timedelta(hours=1)]
    values["tick"] = [TICK] * rows + [TICK + timedelta(hours=1)]
    for field in FLIGHTS.fields:
        value: Any = FLIGHT[field.name]
        if field.dtype == "timestamp":
            value = datetime.fromisoformat(str(value))
        values[field.name] = [value] * (rows + 1)
    values["distance"] = [100.0 * (i + 1) for i in range(rows + 1)]
    values["tailnum"][0] = None
    for spec in FLIGHTS.features:
        stored = TICK.timestamp() - 600 if spec.as_age else 3.0
        values[spec.name] = [changes.get(spec.name, stored)] * (rows + 1)
        if spec.entity.name == "tail":
            values[spec.name][0] = None
    types = {"prediction_time": INSTANT, "tick": INSTANT}
    types |= {f.name: INSTANT for f in FLIGHTS.fields if f.dtype == "timestamp"}
    types |= {s.name: pa.float64() for s in FLIGHTS.features}
    arrays = {name: pa.array(v, types.get(name)) for name, v in values.items()}
    return write_table(home, "training_set", pa.table(arrays))


def views(home: Home, tick: datetime = TICK) -> list[Table]:
    """The offline rows that ``flights_store`` holds online."""
    made, at = [], [tick - timedelta(minutes=15)]
    for view in FLIGHTS.views:
        keys = {key: pa.array([FLIGHT[key]], pa.string()) for key in view.entity.keys}
        times = {f"{name}_timestamp": pa.array(at, INSTANT) for name in ("event", "created")}
        stored = {s.name: tick.timestamp() - 600 if s.as_age else 3.0 for s in view.features}
        values = {name: pa.array([value], pa.float64()) for name, value in stored.items()}
        made.append(write_table(home, view.name, pa.table(keys | times | values)))
    return made


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A home in which a model may be released."""

    home: Home
    folder: Path
    views: list[Table]
    table: Table

    def release(self) -> Release:
        """Release the model."""
        return release_model(
            self.home, FLIGHTS, self.folder, self.views, self.table, 20, StepLog("release")
        )

    @property
    def statement(self) -> Path:
        """The signed release statement."""
        return certificate.release_path(self.home, "flights", self.folder.name)


def plant(home: Home, tables: list[Table], tick: datetime) -> None:
    """Another temperature in the online store than in the offline row."""
    (view,) = [v for v in FLIGHTS.views if v.name == "origin_weather"]
    stored = read_table(named(tables, view.name))
    for name, value in (("origin_temp", [3.25]), ("created_timestamp", [tick])):
        at = stored.schema.get_field_index(name)
        field = stored.schema.field(at)
        stored = stored.set_column(at, field, pa.array(value, field.type))
    with closing(rows_of(home, FLIGHTS)) as store:
        assert store.put(pack_rows(view, stored).items()) == 1


def write_version(
    home: Home, case: UseCase, tables: list[Table], until: datetime, raw: Sequence[Table] = ()
) -> None:
    """The next version of the offline store: these views, and the raw tables of which nothing
    was made."""
    built = Built(int(until.timestamp()), list(raw), tables, tables, {})
    number = len(offline.versions(home, case)) + 1
    version = offline.Version(
        number=number, created=datetime.now(timezone.utc), use_case=case.name,
        service=case.service, code="", built=built, corrected=0, added=0, rebuilt=0,
        quarantine=None, rows_read=0, offset=0,
    )  # fmt: skip
    path = home.path("offline", case.service, f"{number:08d}.json")
    path.write_text(json.dumps(asdict(version), default=str))
