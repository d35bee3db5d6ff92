"""The parity gate, and Feast's own SDK, over both stores filled from a real year."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year

from feature_repo import offline
from feature_repo.confirm import session_let_go
from feature_repo.contract import UseCase
from feature_repo.errors import SkewError, StateError
from feature_repo.home import Home
from feature_repo.online_rows import rows_of
from feature_repo.packed import STATE
from feature_repo.repo import apply, open_store
from feature_repo.store import materialise, pack_rows
from feature_repo.tables import named, read_table, write_raw, write_table
from serving.online import OnlineStore
from tasks.materialise import fill, filled_from
from tasks.parity import _sampled, changed_entities, check_parity
from tasks.steps import StepLog

UNTIL = datetime(2013, 7, 1, 18, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
VIEW = "station_observations"


@pytest.fixture(params=["sqlite", "redis"])
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own with an empty online store of either kind."""
    if request.param == "redis":
        monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", request.getfixturevalue("redis_url"))
    return Home(root=tmp_path)


@pytest.fixture
def filled(place: Home, weather_year: Year) -> Home:
    """The same, materialised on a summer evening."""
    materialise(place, weather_year.use_case, weather_year.views, UNTIL)
    return place


def row(year: Year, temp: float | None = None, hours: float = 0, known: float = 0) -> pa.Table:
    """JFK's stored row of ``UNTIL`` less ``hours``, told anew: with another temperature, and
    known so many hours after it."""
    table = read_table(named(year.views, VIEW))
    event = UNTIL - hours * HOUR
    mine = pc.and_(pc.equal(table["origin"], "JFK"), pc.equal(table["event_timestamp"], event))
    frame = table.filter(mine).to_pandas()
    assert len(frame) == 1
    frame["created_timestamp"] = pd.Timestamp(event + known * HOUR)
    if temp is not None:
        assert "temp_now" in frame
        frame["temp_now"] = temp
    return pa.Table.from_pandas(frame, table.schema, preserve_index=False)


def served(home: Home, year: Year) -> float:
    """JFK's temperature as the server reads it."""
    store = OnlineStore(rows_of(home, year.use_case), year.use_case)
    return float(store.read([{"origin": "JFK"}]).columns["temp_now"][0])


def feast(home: Home, year: Year) -> Any:
    """Feast's own store of the home, as its SDK opens it."""
    store = open_store(home, year.use_case)
    apply(store, year.use_case, year.views)
    return store


def test_each_materialisation_is_compared_and_reported(place: Home, weather_year: Year) -> None:
    log = StepLog("materialise")
    made = fill(place, "weather", weather_year.views, UNTIL, log)
    assert (made.rows, made.written, made.deleted) == (6, 6, 0)
    assert log.record.message.endswith("values, 0 mismatches")
    (path,) = (place.root / "reports" / "parity" / weather_year.use_case.service).iterdir()
    assert path.name == "2013-07-01T1800Z.json"
    report = json.loads(path.read_text())
    assert report["tick"] == "2013-07-01T18:00:00+00:00"
    views = {(v["reader"], v["view"]): v for v in report["views"]}
    assert set(views) == {
        (r, v.name) for r in ("server", "Feast") for v in weather_year.use_case.views
    }
    for view in views.values():
        assert (view["rows"], view["found"], view["mismatches"]) == (8, 3, 0)
        assert 0 <= view["ages_minutes"][0] <= view["ages_minutes"][2] <= 2 * 24 * 60
    again = fill(place, "weather", weather_year.views, UNTIL, log)
    assert (again.rows, again.written, again.deleted) == (6, 0, 0)
    later = fill(place, "weather", weather_year.views, UNTIL + 48 * HOUR, log)
    assert (later.rows, later.written, later.deleted) == (6, 6, 0)


def test_one_value_that_differs_is_refused_and_reported(filled: Home, weather_year: Year) -> None:
    """A value, a row too many, a row too few: each is seen by both readers; a new
    materialisation heals the store."""
    year, store = weather_year, rows_of(filled, weather_year.use_case)
    view = {v.name: v for v in year.use_case.views}[VIEW]
    ((key, value),) = pack_rows(view, row(year, temp=999.0, known=1)).items()
    (state,) = store.get([STATE])
    assert state is not None
    store.put([(key, value)])
    with pytest.raises(SkewError, match=r"2 mismatches.*observations\.temp_now of .*JFK.*999"):
        check_parity(filled, year.use_case, year.views)
    (path,) = (filled.root / "reports" / "parity" / weather_year.use_case.service).iterdir()
    assert sum(v["mismatches"] for v in json.loads(path.read_text())["views"]) == 2
    healed = materialise(filled, year.use_case, year.views, UNTIL)
    assert (healed.written, healed.deleted) == (1, 0)
    assert check_parity(filled, year.use_case, year.views).total("mismatches") == 0
    store.replace({key: value}, state)
    with pytest.raises(SkewError, match="nan for the server"):
        check_parity(filled, year.use_case, year.views)


def test_the_store_must_be_of_the_views(filled: Home, weather_year: Year) -> None:
    """One thousandth in one feature of the offline table is a difference in every station."""
    table = read_table(named(weather_year.views, VIEW))
    at = table.schema.get_field_index("temp_now")
    moved = table.set_column(at, table.schema.field(at), pc.add(table["temp_now"], 0.001))
    views = [v for v in weather_year.views if v.name != VIEW] + [write_table(filled, VIEW, moved)]
    with pytest.raises(SkewError, match="6 mismatches"):
        check_parity(filled, weather_year.use_case, views)


def test_each_tick_samples_other_entities(flights_year: Year) -> None:
    """The same ones each time that it is asked about one tick."""
    case, views = flights_year.use_case, flights_year.views
    first, again, next_one = (
        _sampled(case, views, 100, tick, None)["tail_arrivals"]
        for tick in (UNTIL, UNTIL, UNTIL + timedelta(minutes=15))
    )
    assert first == again
    known = [[tuple(row.values()) for row in rows[:100]] for rows in (first, next_one)]
    assert len({*known[0], *known[1]}) > 150


def test_entities_that_a_step_changed_are_compared(
    tmp_path: Path, weather_year: Year, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A station's corrected hour: it alone is asked about beside a sample that misses it, and a
    value that the store has wrong is found."""
    home, case = Home(root=tmp_path), weather_year.use_case
    monkeypatch.setattr("tasks.parity.KNOWN", 0)
    raw = read_table(weather_year.tables[0])
    last = (raw["time_hour"].to_numpy() == np.datetime64("2013-07-01T16:00")) & (
        raw["origin"].to_numpy() == "LGA"
    )
    temp = pc.if_else(pa.array(last), 99.5, raw["temp"])
    corrected = raw.set_column(raw.schema.get_field_index("temp"), "temp", temp)
    made = [
        offline.update(home, case, [write_raw(home, case.tables[0], table)], until=UNTIL).built
        for table in (raw, corrected)
    ]
    assert filled_from(home, case) is None
    for filled in (made[0].views, made[1].states):
        tables = [
            replace(table, name=view.name) for table, view in zip(filled, case.views, strict=True)
        ]
        materialise(home, case, tables, UNTIL)
        version = filled_from(home, case)
        assert version is not None
        assert version.number == 1 + (filled is made[1].states)
    changed = changed_entities(case, made[0].states, made[1].states)
    assert changed[VIEW] == [{"origin": "LGA"}]
    parity = check_parity(home, case, made[1].views, changed)
    assert {v.found for v in parity.views if v.view == VIEW} == {1}
    materialise(home, case, made[0].views, UNTIL)
    assert check_parity(home, case, made[1].views).total("mismatches") == 0
    with pytest.raises(SkewError, match=r"temp_mean_3h of .*LGA.* 75.02 for the server, 83.54"):
        check_parity(home, case, made[1].views, changed)


def through_feast(home: Home, year: Year, rows: pa.Table) -> None:
    """Feast's SDK, by the view's name."""
    feast(home, year).write_to_online_store(VIEW, rows.to_pandas())


def through_its_push_source(home: Home, year: Year, rows: pa.Table) -> None:
    """Feast's SDK, by the push source's name."""
    feast(home, year).push(f"{VIEW}_push", rows.to_pandas())


@pytest.mark.parametrize("told", [through_feast, through_its_push_source])
def test_a_late_event_counts_only_when_it_is_newer(
    filled: Home, weather_year: Year, told: Any
) -> None:
    year = weather_year
    true = served(filled, year)
    told(filled, year, row(year, temp=1.0, hours=1, known=9))  # an earlier event, known later
    assert served(filled, year) == true
    told(filled, year, row(year, temp=2.0, known=2))
    told(filled, year, row(year, temp=3.0, known=1))
    assert served(filled, year) == 2.0
    for temp in (-6.0, 5.0, -7.0):  # a correction of a row has its times, whatever its bytes are
        told(filled, year, row(year, temp=temp, known=2))
        assert served(filled, year) == temp
    with pytest.raises(StateError, match="after the online store's own"):
        told(filled, year, row(year, temp=4.0, hours=-1))
    assert served(filled, year) == -7.0


def test_feast_materialises_the_same_bytes(place: Home, weather_year: Year) -> None:
    """Its own materialisation, asked for the same interval, leaves the rows that ours does."""
    year, store = weather_year, rows_of(place, weather_year.use_case)
    keys = [
        key
        for view in year.use_case.views
        for key in pack_rows(view, read_table(named(year.views, view.name)))
    ]
    sdk = feast(place, year)
    with session_let_go():
        sdk.materialize(datetime(2013, 1, 1, tzinfo=timezone.utc), UNTIL)
    theirs = store.get(keys)
    assert len(theirs) == 6
    assert None not in theirs
    sdk.teardown()
    assert store.get([STATE, *keys]) == [None] * 7
    materialise(place, year.use_case, year.views, UNTIL)
    assert store.get(keys) == theirs


def reordered(case: UseCase) -> UseCase:
    """The same features in the other direction: another declaration."""
    return replace(case, features=case.features[::-1])


def renamed(case: UseCase) -> UseCase:
    """The last feature has another name."""
    return replace(
        case, features=(*case.features[:-1], replace(case.features[-1], name="of_old"))
    )  # fmt: skip


@pytest.mark.parametrize("change", [reordered, renamed])
def test_an_older_service_leaves_the_current_one_s_registry_alone(
    tmp_path: Path, weather_year: Year, change: Callable[[UseCase], UseCase]
) -> None:
    """Both are served and compared, the older one last; then Feast is asked for the current one,
    by whoever opens its store."""
    year, home = weather_year, Home(root=tmp_path)
    older = change(year.use_case)
    name, other = year.use_case.features[-1].name, older.features[-1].name
    view = named(year.views, older.features[-1].view)
    table = read_table(view)
    if other not in table.column_names:
        table = table.rename_columns({name: other})
    theirs = [v for v in year.views if v.name != view.name] + [write_table(home, view.name, table)]
    for case, views in ((year.use_case, year.views), (older, theirs)):
        materialise(home, case, views, UNTIL)
        assert check_parity(home, case, views).total("mismatches") == 0
    rows = OnlineStore(rows_of(home, year.use_case), year.use_case).read([{"origin": "JFK"}])
    answer = (
        open_store(home, year.use_case)
        .get_online_features(
            features=[f"{spec.view}:{spec.name}" for spec in year.use_case.features],
            entity_rows=[{"origin": "JFK"}],
        )
        .to_dict()
    )
    for spec in year.use_case.features:
        told = np.array(answer[spec.name], dtype=float)
        np.testing.assert_array_equal(told, rows.columns[spec.name], spec.name)


def test_the_sdk_reads_what_the_server_reads(filled: Home, weather_year: Year) -> None:
    """Known and unknown entities, nulls, and a row older than its ttl."""
    year = weather_year
    much_later = UNTIL + timedelta(days=400)
    asked = [{"origin": name} for name in ("JFK", "LGA", "EWR", "XXX", "JFK")]
    for until in (UNTIL, much_later):
        materialise(filled, year.use_case, year.views, until)
        rows = OnlineStore(rows_of(filled, year.use_case), year.use_case).read(asked)
        answer = (
            feast(filled, year)
            .get_online_features(
                features=open_store(filled, year.use_case).get_feature_service(
                    year.use_case.service
                ),
                entity_rows=asked,
            )
            .to_dict()
        )
        for name, column in rows.columns.items():
            np.testing.assert_array_equal(np.array(answer[name], dtype=float), column)
        assert np.isnan(rows.columns["temp_now"]).tolist() == [until is much_later] * 3 + [True] + [
            until is much_later
        ]
