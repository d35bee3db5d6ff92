"""A release and the online stores: its own and the live one, each equal to the offline rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year
from release_helpers import FLIGHTS, Ready, plant, training_set, views, write_version
from serving_helpers import TICK, certified_model, flights_store

from feature_repo.errors import (
    SkewError,
    StateError,
)
from feature_repo.home import Home
from feature_repo.store import materialise
from feature_repo.tables import Table, read_table, write_table
from serving import ledger
from serving.predictions import find
from serving.releases import read_current
from tasks.materialise import fill, held_tick, last_busy_tick
from tasks.release import Release, Released, release, store_to_ask
from tasks.steps import StepLog
from tasks.types import State


def test_a_store_of_a_later_tick_goes_on_answering(
    ready: Ready, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is trained on the past is proved on a store of its own."""
    home, now = ready.home, TICK + timedelta(days=30)
    later = views(home, now)
    write_version(home, FLIGHTS, later, now)
    materialise(home, FLIGHTS, later, now)
    kept = fill(home, "flights", ready.views, TICK, StepLog("materialise"))
    assert kept.tick == now.isoformat()
    assert "already, and stays" in capsys.readouterr().err
    with store_to_ask(home, FLIGHTS, ready.views, TICK) as place:
        made = replace(ready, home=place).release()
    assert (made.released, made.probes) == (True, 3)
    assert find(home, made.prediction_id) is not None
    assert held_tick(home, FLIGHTS) == now
    assert "the live store as of 2013-12-05T14:00:00+00:00, online" in capsys.readouterr().err


def test_one_planted_value_in_the_live_store_refuses_the_release(ready: Ready) -> None:
    """Though the model is proved on a store of its own, which is right; a version that came since
    the live store was filled is no reason."""
    home, now = ready.home, TICK + timedelta(days=30)
    later = views(home, now)
    write_version(home, FLIGHTS, later, now)
    write_version(home, FLIGHTS, ready.views, now)
    materialise(home, FLIGHTS, later, now)
    plant(home, later, now)
    with (
        store_to_ask(home, FLIGHTS, ready.views, TICK) as place,
        pytest.raises(SkewError, match=r"2 mismatches.*origin_temp of .*EWR.* is 3.25"),
    ):
        replace(ready, home=place).release()
    assert not ready.statement.exists()
    materialise(home, FLIGHTS, later, now)
    with store_to_ask(home, FLIGHTS, ready.views, TICK) as place:
        assert replace(ready, home=place).release().released


def test_one_planted_value_in_the_online_store_refuses_the_release(ready: Ready) -> None:
    """Nothing is signed, and nothing is served; the report names the value."""
    plant(ready.home, ready.views, TICK)
    with pytest.raises(SkewError, match=r"2 mismatches.*origin_temp of .*EWR.* is 3.25"):
        ready.release()
    assert not ready.statement.exists()
    with pytest.raises(StateError, match="is champion"):
        read_current(ready.home, "flights")
    (report,) = (ready.home.root / "reports" / "parity" / FLIGHTS.service).iterdir()
    assert "origin_temp" in report.read_text()


def test_a_store_that_disagrees_with_the_training_set_stops_the_release(ready: Ready) -> None:
    other = training_set(ready.home, origin_temp=-20.0)
    skewed = replace(ready, table=other)
    with pytest.raises(SkewError, match="the online store and the training set disagree"):
        skewed.release()
    assert not ready.statement.exists()
    with pytest.raises(StateError, match="is champion"):
        read_current(ready.home, "flights")


def test_a_store_of_another_tick_has_nothing_to_compare(ready: Ready) -> None:
    later = TICK + timedelta(hours=5)
    flights_store(ready.home, later)
    with pytest.raises(StateError, match="no request of the training set"):
        replace(ready, views=views(ready.home, later)).release()


def requests_until(home: Home, year: Year, end: datetime) -> Table:
    """The part of weather's training set that is judged when the data end at ``end``."""
    rows = read_table(year.training_set)
    rows = rows.filter(pc.less_equal(rows["tick"], pa.scalar(end, rows.schema.field("tick").type)))
    return write_table(
        home, "training_set", rows.append_column("split", pa.array(["test"] * len(rows)))
    )


def test_two_releases_on_other_data_do_not_harm_each_other(
    weather_year: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fills the one online store as of its own tick and compares a server with it; while one
    does so, the other waits."""
    for name in ("SIGNING_KEY", "TRUSTED_KEYS", "ALLOW_DEVELOPMENT_KEY"):
        monkeypatch.delenv(f"AIRWORTHY_{name}", raising=False)
    home, case = Home(root=tmp_path), weather_year.use_case
    models = [certified_model(home, case, threshold=t, version=f"1.{t}.0")[0] for t in (0, 1)]
    ends = [datetime(2013, month, 20, tzinfo=timezone.utc) for month in (6, 12)]
    tables = [requests_until(home, weather_year, end) for end in ends]
    assert len({last_busy_tick(table) for table in tables}) == 2
    write_version(home, case, weather_year.views, ends[1])

    def run(model: Path, table: Table) -> Release:
        made: Released = release.task_function(
            state=State(str(home.root), home.id), use_case="weather", model_dir=str(model),
            views=weather_year.views, training_set=table, passed=True,
        )  # fmt: skip
        return made.release

    with ThreadPoolExecutor(2) as pool:
        begun = [
            pool.submit(copy_context().run, run, model, table)
            for model, table in zip(models, tables, strict=True)
        ]
        made = [future.result() for future in begun]
    for one, model, table in zip(made, models, tables, strict=True):
        assert (one.released, one.already, one.subject) == (True, False, model.name)
        assert one.max_difference < 1e-5
        recorded = find(home, one.prediction_id)
        assert recorded is not None
        assert (recorded.subject, recorded.tick) == (model.name, last_busy_tick(table))
    entries = [e["subject"] for e in ledger.entries(home) if e["kind"] == "release"]
    assert sorted(entries) == sorted(model.name for model in models)
