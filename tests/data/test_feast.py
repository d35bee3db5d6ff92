"""Feast, asked independently, gives the rows that we computed: offline and online."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year

from feature_repo.confirm import confirm
from feature_repo.home import Home
from feature_repo.online_rows import rows_of
from feature_repo.packed import STATE, unpack_state
from feature_repo.repo import apply, forget, open_store
from feature_repo.store import Materialisation, materialise, pack_rows
from feature_repo.tables import named, read_table, write_table

ROOT = Path(__file__).parent.parent.parent
THANKSGIVING = datetime(2013, 11, 27, 20, 7, tzinfo=timezone.utc)


def test_feast_confirms_a_sample(flights_year: Year) -> None:
    """500 rows, those without history among them: not one value differs."""
    year = flights_year
    check = confirm(year.home, year.use_case, year.views, year.training_set)
    assert check.mismatches == 0
    assert check.rows > 450
    assert check.values == check.rows * len(year.use_case.features)


def test_feast_confirms_weather(weather_year: Year) -> None:
    """The second use case, through the same door."""
    year = weather_year
    check = confirm(year.home, year.use_case, year.views, year.training_set, rows=200, seed=7)
    assert (check.mismatches, check.values) == (0, check.rows * len(year.use_case.features))


def test_a_tampered_value_is_found(flights_year: Year) -> None:
    """One feature of one view moved by a thousandth: named, with both values."""
    year = flights_year
    view = read_table(named(year.views, "origin_weather"))
    at = view.schema.get_field_index("origin_temp")
    tampered = view.set_column(at, "origin_temp", pc.add(view["origin_temp"], 0.001))
    views = [v for v in year.views if v.name != "origin_weather"]
    views.append(write_table(year.home, "origin_weather", tampered))
    check = confirm(year.home, year.use_case, views, year.training_set, rows=100)
    assert 80 <= check.mismatches <= check.rows
    assert "origin_temp: ours" in check.examples[0]
    assert "disagree" in check.error()


@pytest.fixture(scope="module")
def online(flights_year: Year) -> Materialisation:
    """The online store as of the evening before Thanksgiving."""
    made = materialise(flights_year.home, flights_year.use_case, flights_year.views, THANKSGIVING)
    assert made.tick == "2013-11-27T20:00:00+00:00"
    assert made.rows > 5000
    return made


def test_the_online_store_carries_its_tick(online: Materialisation, flights_year: Year) -> None:
    """Beside the rows, so that features and tick cannot come apart; nothing else is left."""
    use_case = flights_year.use_case
    (value,) = rows_of(flights_year.home, use_case).get([STATE])
    assert value is not None
    state = unpack_state(value)
    assert state.tick == datetime(2013, 11, 27, 20, tzinfo=timezone.utc)
    assert (state.use_case, state.declaration) == ("flights", use_case.declaration)
    left = [p.name for p in Path(online.store).parent.iterdir() if p.suffix == ".db"]
    assert left == [f"{use_case.service}.db"]


def test_online_equals_offline(online: Materialisation, flights_year: Year) -> None:
    """Feast's own SDK reads, for flights that ask at the store's tick, their training rows."""
    year = flights_year
    table = read_table(year.training_set)
    tick = datetime(2013, 11, 27, 20, tzinfo=timezone.utc)
    rows = table.filter(pc.equal(table["tick"], pa.scalar(tick)))
    assert rows.num_rows > 5
    store = open_store(year.home, year.use_case)
    apply(store, year.use_case, year.views)
    keys = ("carrier", "origin", "dest", "tailnum", "flight")
    answer = store.get_online_features(
        features=store.get_feature_service(year.use_case.service),
        entity_rows=[{k: row[k] for k in keys} for row in rows.select(keys).to_pylist()],
    ).to_dict()
    for spec in year.use_case.features:
        ours = np.array(rows[spec.name].to_pylist(), dtype=float)
        theirs = np.array(answer[spec.name], dtype=float)
        np.testing.assert_array_equal(theirs, ours, err_msg=spec.name)


def test_a_stored_row_pushed_again_overwrites_nothing(
    online: Materialisation, flights_year: Year
) -> None:
    """Rows of every view as its table has them, the entities' older ones: none is newer than what
    the store has."""
    year, until = flights_year, pa.scalar(THANKSGIVING, pa.timestamp("us", "UTC"))
    for view in year.use_case.views:
        table = read_table(named(year.views, view.name))
        table = table.filter(pc.less_equal(table["event_timestamp"], until))
        rows = pack_rows(view, table.slice(table.num_rows - 300))
        assert rows_of(year.home, year.use_case).put(rows.items()) == 0, view.name


def test_a_store_made_again_replaces_the_old_one(weather_year: Year) -> None:
    """A later store has the later tick; an earlier one does not keep later rows."""
    year, seen = weather_year, []
    for hour in (18, 6):
        until = datetime(2013, 7, 1, hour, tzinfo=timezone.utc)
        made = materialise(year.home, year.use_case, year.views, until)
        store = open_store(year.home, year.use_case)
        apply(store, year.use_case, year.views)
        answer = store.get_online_features(
            features=["station_observations:age"], entity_rows=[{"origin": "JFK"}]
        ).to_dict()
        assert made.tick == until.isoformat()
        seen.append(answer["age"][0])
    assert seen[0] - seen[1] == 12 * 3600


def test_a_forgotten_service_leaves_the_registry(tmp_path: Path, weather_year: Year) -> None:
    """With its views and entities, and once more without a fault; another service's stay."""
    year, home = weather_year, Home(root=tmp_path)
    older = replace(year.use_case, features=year.use_case.features[:-1])
    services = (year.use_case, older)
    for case in services:
        apply(open_store(home, case), case, year.views)
    forget(home, older)
    forget(home, older)
    left = [open_store(home, case) for case in services]
    assert [len(store.list_feature_views()) for store in left] == [len(year.use_case.views), 0]
    assert [len(store.list_entities()) > 0 for store in left] == [True, False]


def test_feast_s_command_line_lists_our_views(tmp_path: Path, weather_year: Year) -> None:
    """As ``make feast`` does: the configuration is generated, and Feast's program takes it."""
    year, home, binaries = weather_year, Home(root=tmp_path), Path(sys.executable).parent
    apply(open_store(home, year.use_case), year.use_case, year.views)
    wrote = [sys.executable, "-m", "feature_repo.repo", "weather"]
    subprocess.run(wrote, check=True, cwd=ROOT, env=os.environ | {"AIRWORTHY_HOME": str(tmp_path)})
    asked = [str(binaries / "feast"), "--chdir", str(tmp_path / "feast" / "weather")]
    done = subprocess.run(
        [*asked, "feature-views", "list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for view in year.use_case.views:
        assert view.name in done.stdout
