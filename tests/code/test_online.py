"""The server's reader on both stores: what it finds, takes for missing, refuses."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import TICK, StoredRows, write_store

from feature_repo.contract import Entity, EventLog, FeatureSpec, RequestField, UseCase
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.online_rows import rows_of
from feature_repo.packed import STATE, StoreState, entity_key, row_format
from serving.online import OnlineStore

DAY = timedelta(days=1)
SHOP = Entity(name="shop", keys=("shop",))
SHELF = Entity(name="shelf", keys=("shop", "aisle"))


def small(name: str = "small", bounds: tuple[float, float] = (0, 1)) -> UseCase:
    """Two views: one key, and two keys of which one is a number."""
    sql = "select shop, aisle, value, event_timestamp, available_at from facts"
    sales = EventLog(name="sales", sql=sql, tie_break=(), ttl=DAY, fresh_within=DAY)
    stock = EventLog(name="stock", sql=sql, tie_break=(), ttl=2 * DAY, fresh_within=DAY)
    parts = ((SHOP, sales, "sold"), (SHOP, sales, "price"), (SHELF, stock, "left"))
    features = tuple(
        FeatureSpec(
            name=feature,
            entity=entity,
            log=log,
            value="value",
            aggregation="last",
            bounds=bounds,
        )
        for entity, log, feature in parts
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


@pytest.fixture(params=["sqlite", "redis"])
def home(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with an empty online store of either kind."""
    if request.param == "redis":
        monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", request.getfixturevalue("redis_url"))
    return Home(root=tmp_path)


def opened(home: Home, use_case: UseCase = SMALL) -> OnlineStore:
    """The reader that a server of this home has."""
    return OnlineStore(rows_of(home, use_case), use_case)


def test_rows_are_found_by_their_keys_and_others_are_missing(home: Home) -> None:
    write_store(home, SMALL, stored(timedelta(minutes=30)))
    store = opened(home)
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
    [
        (DAY, 0.0, -2.5),
        (DAY + timedelta(minutes=15), None, -2.5),
        (3 * DAY, None, None),
        (-timedelta(minutes=15), None, None),
    ],
)
def test_a_row_older_than_its_ttl_or_after_the_tick_reads_as_missing(
    home: Home, age: timedelta, sold: float | None, left: float | None
) -> None:
    write_store(home, SMALL, stored(age))
    rows = opened(home).read(ASKED[:1])
    for name, value in (("sold", sold), ("left", left)):
        np.testing.assert_array_equal(rows.columns[name], [np.nan if value is None else value])
    assert np.isnan(rows.view_ticks["shop_sales"][0]) == (sold is None)


def test_a_store_written_again_is_read_by_who_has_it_open(home: Home) -> None:
    write_store(home, SMALL, stored())
    store = opened(home)
    assert store.read(ASKED[:1]).columns["left"][0] == -2.5
    later = TICK + timedelta(minutes=15)
    write_store(home, SMALL, {}, later)
    rows = store.read(ASKED[:1])
    assert rows.tick == store.tick == later
    assert np.isnan(rows.columns["left"][0])
    rows_of(home, SMALL).drop()
    with pytest.raises(StateError, match="absent or empty"):
        store.read(ASKED[:1])
    write_store(home, SMALL, stored())
    assert store.read(ASKED[:1]).columns["left"][0] == -2.5


def test_an_absent_foreign_or_damaged_store_is_refused(home: Home) -> None:
    with pytest.raises(StateError, match="absent or empty; run the use case's workflow"):
        opened(home)
    store = write_store(home, SMALL, stored())
    with pytest.raises(StateError, match="absent"):  # another declaration is another store
        opened(home, small(bounds=(0, 2)))
    with pytest.raises(StateError, match="written for use case 'small', this program reads 'oth"):
        OnlineStore(store, small("other"))
    with pytest.raises(StateError, match="written for feature declaration"):
        OnlineStore(store, small(bounds=(0, 2)))
    key = row_format(SMALL.views[1]).key(entity_key({"shop": "a", "aisle": 1}))
    state = StoreState(
        use_case="small", declaration=SMALL.declaration, content="", tick=TICK
    ).pack()
    store.replace({key: b"short"}, state)
    with pytest.raises(StateError, match="'shelf_stock' is not of 24 bytes, as its 1 features"):
        opened(home).read(ASKED)
    for broken in (b"", state[:8], state[:-1], state + b"{}", b"\xff" * 8 + state[8:]):
        store.replace({STATE: broken}, broken)
        with pytest.raises(StateError, match="cannot be used"):
            opened(home)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    path = home.path("online", f"{SMALL.service}.db")
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match=f"{path.name} cannot be used"):
        opened(home)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (name)")
    with pytest.raises(StateError, match="no such table: rows"):
        opened(home)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:1/0", r"does not answer.*start Redis"),
        ("unix:///nowhere/redis.sock", "does not answer"),
        ("http://127.0.0.1/", "AIRWORTHY_ONLINE_STORE names no Redis"),
    ],
)
def test_a_redis_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", url)
    with pytest.raises(StateError, match=says):
        opened(Home(root=tmp_path))


def test_a_password_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", "redis://user:geheim@127.0.0.1:1/0")
    with pytest.raises(StateError) as caught:
        opened(Home(root=tmp_path))
    assert "geheim" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


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


def test_a_tick_is_an_aware_instant_in_utc(home: Home) -> None:
    at = datetime(2013, 3, 10, 7, 0, tzinfo=timezone.utc)  # New York's clock skips an hour here
    write_store(home, SMALL, {}, at)
    store = opened(home)
    assert store.tick == at
    assert store.tick.utcoffset() == timedelta(0)
