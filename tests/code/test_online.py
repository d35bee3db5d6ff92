"""The reader of Feast's sqlite file against Feast itself, and the rules that Feast lacks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import TICK, StoredRows, write_store

from feature_repo.contract import Entity, EventLog, FeatureSpec, RequestField, UseCase
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.ticks import clock_zone
from serving.online import OnlineStore, entity_key

DAY = timedelta(days=1)
SHOP = Entity(name="shop", keys=("shop",))
SHELF = Entity(name="shelf", keys=("shop", "aisle"))


def small(name: str = "small", bounds: tuple[float, float] = (0, 1)) -> UseCase:
    """Two views: one key, and two keys of which one is a number."""
    sales = EventLog(name="sales", sql="select 1", tie_break=(), ttl=DAY, fresh_within=DAY)
    stock = EventLog(name="stock", sql="select 1", tie_break=(), ttl=2 * DAY, fresh_within=DAY)
    parts = ((SHOP, sales, "sold"), (SHOP, sales, "price"), (SHELF, stock, "left"))
    features = tuple(
        FeatureSpec(
            name=value, entity=entity, log=log, value=value, aggregation="last", bounds=bounds
        )
        for entity, log, value in parts
    )
    return UseCase(
        name=name, description="", owner="", task="regression", label="", unit="", intended_use="",
        limitations="", tables=(), requests_sql="select 1", derived=(), slices=(), gate=(),
        fields=(
            RequestField(name="shop", dtype="string", model_input=False),
            RequestField(name="aisle", dtype="number", model_input=False),
        ),
        features=features,
    )  # fmt: skip


SMALL = small()
ASKED: list[dict[str, Any]] = [
    {"shop": "a", "aisle": 1.0},
    {"shop": "b", "aisle": 1.0},
    {"shop": "a", "aisle": 2.0},
    {"shop": None, "aisle": 1.0},
]


def stored(age: timedelta = timedelta(0)) -> dict[str, StoredRows]:
    """Rows of shop a, ``age`` old at the store's tick."""
    return {
        "shop_sales": [({"shop": "a"}, TICK - age, {"sold": 0.0, "price": float("nan")})],
        "shelf_stock": [({"shop": "a", "aisle": 1}, TICK - age, {"left": -2.5})],
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(root=tmp_path)


def test_rows_are_found_by_their_keys_and_others_are_missing(home: Home) -> None:
    store = OnlineStore(write_store(home, SMALL, stored(timedelta(minutes=30))), SMALL)
    assert store.tick == TICK
    rows = store.read(ASKED)
    nan = np.nan
    np.testing.assert_array_equal(rows.columns["sold"], [0.0, nan, 0.0, nan])
    np.testing.assert_array_equal(rows.columns["price"], [nan] * 4)
    np.testing.assert_array_equal(rows.columns["left"], [-2.5, nan, nan, nan])
    at = TICK.timestamp() - 1800
    np.testing.assert_array_equal(rows.view_ticks["shop_sales"], [at, nan, at, nan])


@pytest.mark.parametrize(
    ("age", "sold", "left"),
    [(DAY, 0.0, -2.5), (DAY + timedelta(minutes=15), None, -2.5), (3 * DAY, None, None)],
)
def test_a_row_older_than_its_ttl_reads_as_missing(
    home: Home, age: timedelta, sold: float | None, left: float | None
) -> None:
    rows = OnlineStore(write_store(home, SMALL, stored(age)), SMALL).read(ASKED[:1])
    for name, value in (("sold", sold), ("left", left)):
        np.testing.assert_array_equal(rows.columns[name], [np.nan if value is None else value])
    assert np.isnan(rows.view_ticks["shop_sales"][0]) == (sold is None)


def test_a_replaced_file_is_opened_anew(home: Home) -> None:
    store = OnlineStore(write_store(home, SMALL, stored()), SMALL)
    assert store.read(ASKED[:1]).columns["left"][0] == -2.5
    later = TICK + timedelta(minutes=15)
    write_store(home, SMALL, {}, later)
    rows = store.read(ASKED[:1])
    assert rows.tick == store.tick == later
    assert np.isnan(rows.columns["left"][0])


def test_an_absent_foreign_or_damaged_store_is_refused(home: Home) -> None:
    path = home.path("online", f"{SMALL.service}.db")
    with pytest.raises(StateError, match="absent"):
        OnlineStore(path, SMALL)
    write_store(home, SMALL, stored())
    changed = small(bounds=(0, 2))
    with pytest.raises(StateError, match="written for feature declaration"):
        OnlineStore(path, changed)
    with pytest.raises(StateError, match="holds nothing of use case 'other'"):
        OnlineStore(path, small("other"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE airworthy_shelf_stock")
    with pytest.raises(StateError, match="shelf_stock"):
        OnlineStore(path, SMALL)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match="cannot be used"):
        OnlineStore(path, SMALL)


def test_keys_are_serialised_as_feast_does() -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    theirs = serialize_entity_key(
        EntityKey(
            join_keys=["shop", "aisle", "zone"],
            entity_values=[
                Value(string_val="Zürich"), Value(int64_val=-3), Value(string_val=""),
            ],
        ),
        entity_key_serialization_version=3,
    )  # fmt: skip
    assert entity_key({"shop": "Zürich", "aisle": -3.0, "zone": ""}) == theirs


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def in_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The machine's clock in a zone of its own."""
    zone: str = request.param
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    yield zone
    monkeypatch.undo()
    time.tzset()


def test_what_feast_wrote_is_read_as_feast_reads_it(home: Home, in_zone: str) -> None:
    """Feast writes a store of the small use case through its own SDK; both read it."""
    import pandas as pd
    from feast import Entity as FeastEntity
    from feast import FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.repo_config import RepoConfig
    from feast.types import Float64

    path = home.path("online", f"{SMALL.service}.db")
    config = RepoConfig(
        project="airworthy", provider="local", registry=str(home.path("registry.db")),
        online_store={"type": "sqlite", "path": str(path)}, offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )  # fmt: skip
    store = FeatureStore(config=config)
    shop = FeastEntity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    aisle = FeastEntity(name="aisle", join_keys=["aisle"], value_type=ValueType.INT64)
    source = FileSource(path=str(home.path("none.parquet")), timestamp_field="event_timestamp")
    frame = pd.DataFrame(
        {"shop": ["a", "b"], "aisle": [1, 2], "event_timestamp": [TICK, TICK - DAY]}
    )
    frame.assign(sold=1.0, price=2.0, left=3.0).to_parquet(home.path("none.parquet"))
    views = [
        FeatureView(
            name=view.name, source=source, ttl=DAY,
            entities=[{"shop": shop, "aisle": aisle}[k] for k in view.entity.keys],
            schema=[Field(name=f.name, dtype=Float64) for f in view.features],
        )
        for view in SMALL.views
    ]  # fmt: skip
    store.apply([shop, aisle, *views])
    values = {"sold": [1 / 3, np.nan], "price": [-1e300, 0.0], "left": [5e-324, 7.0]}
    for view in SMALL.views:
        columns = {f.name: values[f.name] for f in view.features}
        keys = ["event_timestamp", *view.entity.keys]
        store.write_to_online_store(view.name, frame[keys].assign(**columns))
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE airworthy_store (use_case, tick_seconds, declaration, zone)"
        )
        facts = ("small", int(TICK.timestamp()), SMALL.declaration, clock_zone())
        connection.execute("INSERT INTO airworthy_store VALUES (?, ?, ?, ?)", facts)

    asked: list[dict[str, Any]] = [{"shop": "a", "aisle": 1}, {"shop": "b", "aisle": 2}]
    names = [f"{v.name}:{f.name}" for v in SMALL.views for f in v.features]
    theirs = store.get_online_features(features=names, entity_rows=asked).to_dict()
    ours = OnlineStore(path, SMALL).read(asked)
    for name, column in ours.columns.items():
        np.testing.assert_array_equal(column, np.array(theirs[name], dtype=float), err_msg=name)
    ticks = [TICK.timestamp(), (TICK - DAY).timestamp()]
    np.testing.assert_array_equal(ours.view_ticks["shop_sales"], ticks, err_msg=in_zone)


def test_a_tick_is_an_aware_instant_in_utc(home: Home) -> None:
    at = datetime(2013, 3, 10, 7, 0, tzinfo=timezone.utc)  # New York's clock skips an hour here
    store = OnlineStore(write_store(home, SMALL, {}, at), SMALL)
    assert store.tick == at
    assert store.tick.utcoffset() == timedelta(0)


def test_another_time_zone_is_refused(tmp_path: Path) -> None:
    """Feast keeps local wall-clock times: rows would silently shift by the offset."""
    path = tmp_path / "small.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE airworthy_store (use_case, tick_seconds, declaration, zone)"
        )
        facts = ("small", int(TICK.timestamp()), SMALL.declaration, "-32400,-32400")
        connection.execute("INSERT INTO airworthy_store VALUES (?, ?, ?, ?)", facts)
    with pytest.raises(StateError, match=r"time zone -32400,-32400.*TZ=UTC"):
        OnlineStore(path, SMALL)
