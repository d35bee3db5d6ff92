"""A release: asked over HTTP, compared with offline, signed once, finished after a kill."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from conftest import Year
from serving_helpers import FLIGHT, TICK, certified_model, flights_store, predicate, write_model

from feature_repo import offline
from feature_repo.contract import UseCase
from feature_repo.engine import Built
from feature_repo.errors import (
    AirworthyError,
    CertificateError,
    PromotionError,
    SkewError,
    StateError,
)
from feature_repo.home import Home, digest_of, file_digest, folder_digests
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.store import materialise, pack_rows
from feature_repo.tables import Table, named, read_table, write_table
from serving import certificate, dsse, ledger
from serving.predictions import find
from serving.releases import read_current
from serving.statements import read_statement
from tasks.audit import released
from tasks.ledger import own_trust
from tasks.materialise import fill, held_tick, last_busy_tick
from tasks.release import Release, Released, release, release_model, store_to_ask
from tasks.steps import StepLog
from tasks.types import State

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


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """A certified model, its online store and training set, with a development key."""
    for name in ("SIGNING_KEY", "TRUSTED_KEYS", "ALLOW_DEVELOPMENT_KEY"):
        monkeypatch.delenv(f"AIRWORTHY_{name}", raising=False)
    home = Home(root=tmp_path)
    folder, _ = certified_model(home, FLIGHTS, version="1.0.0")
    flights_store(home)
    return Ready(home=home, folder=folder, views=views(home), table=training_set(home))


def test_a_release_is_probed_signed_and_done_once(ready: Ready) -> None:
    shutil.copytree(ready.home.root / "ledger", ready.home.root / "before")
    made = ready.release()
    assert made.released
    assert not made.already
    assert made.probes == 3
    assert made.max_difference < 1e-5
    recorded = find(ready.home, made.prediction_id)
    assert recorded is not None
    assert recorded.subject == made.subject == ready.folder.name
    manifest = yaml.safe_load(Path(made.manifest).read_text())
    assert manifest["kind"] == "InferenceService"
    assert made.subject in Path(made.manifest).read_text()
    with pytest.raises(StateError, match="no model of 'flights' is champion"):
        read_current(ready.home, "flights")  # the promotion, which follows, moves the pointer
    parity = read_statement(
        ready.statement, certificate.RELEASE_TYPE, own_trust(ready.home)
    ).predicate["parity"]
    assert parity["rows"] == 2 * 6 * len(FLIGHTS.views)
    assert (parity["values"] > parity["rows"], parity["mismatches"]) == (True, 0)
    assert file_digest(ready.statement.with_name("parity.json")) == parity["report"]
    before = ready.statement.read_bytes()
    predictions = (ready.home.root / "predictions" / "flights.db").stat().st_size

    again = ready.release()
    assert again.already
    assert (again.probes, again.prediction_id) == (made.probes, made.prediction_id)
    assert ready.statement.read_bytes() == before
    assert (ready.home.root / "predictions" / "flights.db").stat().st_size == predictions
    entries = [e for e in ledger.entries(ready.home) if e["kind"] == "release"]
    assert [e["subject"] for e in entries] == [made.subject]
    assert entries[0]["facts"]["parity"] == parity
    faults: list[AirworthyError] = []
    told = "\n".join(released(ready.home, "flights", made.subject, faults))
    assert f"{parity['rows']:,} rows, {parity['values']:,} values, 0 mismatches" in told
    assert f"{parity['report']} (stored, verified)" in told
    assert faults == []
    report = ready.statement.with_name("parity.json")
    report.write_bytes(report.read_bytes() + b" ")
    told = "\n".join(released(ready.home, "flights", made.subject, faults))
    assert "(stored, but CHANGED)" in told
    assert [str(fault) for fault in faults] == [
        f"stored {report} was changed: find out by whom, and restore it"
    ]

    # Killed after the statement: the rerun completes the ledger, and starts no server.
    shutil.rmtree(ready.home.root / "ledger")
    (ready.home.root / "before").rename(ready.home.root / "ledger")
    for file in (ready.home.root / "online").iterdir():
        file.unlink()
    healed = ready.release()
    assert healed.already
    entries = [e for e in ledger.entries(ready.home) if e["kind"] == "release"]
    assert [e["subject"] for e in entries] == [made.subject]


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


def write_version(home: Home, case: UseCase, tables: list[Table], until: datetime) -> None:
    """The next version of the offline store: these views, and nothing that they were made of."""
    built = Built(int(until.timestamp()), [], tables, tables, {})
    number = len(offline.versions(home, case)) + 1
    version = offline.Version(
        number=number, created=datetime.now(timezone.utc), use_case=case.name,
        service=case.service, code="", built=built, corrected=0, added=0, rebuilt=0,
        quarantine=None, rows_read=0, offset=0,
    )  # fmt: skip
    path = home.path("offline", case.service, f"{number:08d}.json")
    path.write_text(json.dumps(asdict(version), default=str))


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


def test_a_refused_model_is_not_released(ready: Ready) -> None:
    (ready.folder / "certificate.json").unlink()
    refused = predicate(FLIGHTS, gate={"passed": False, "verdicts": []})
    key, now = dsse.signing_key(ready.home), datetime.now(timezone.utc)
    certificate.issue(key, ready.folder, refused, timedelta(days=90), now)
    with pytest.raises(PromotionError, match="never released"):
        ready.release()


def test_an_expired_certificate_blocks_a_new_release(ready: Ready) -> None:
    (ready.folder / "certificate.json").unlink()
    key, long_ago = dsse.signing_key(ready.home), datetime(2020, 1, 1, tzinfo=timezone.utc)
    certificate.issue(key, ready.folder, predicate(FLIGHTS), timedelta(days=90), long_ago)
    with pytest.raises(CertificateError, match="expired"):
        ready.release()


def test_a_model_that_cannot_be_loaded_says_why(ready: Ready) -> None:
    """Certified, but its preprocessing is not what this program reads."""
    folder = ready.home.path("models", "flights", "broken")
    write_model(folder, FLIGHTS)
    (folder / "preprocess.json").write_text(json.dumps({"numeric": []}))
    folder = folder.rename(folder.with_name(digest_of(folder_digests(folder))))
    now = datetime.now(timezone.utc)
    certificate.issue(
        dsse.signing_key(ready.home), folder, predicate(FLIGHTS), timedelta(days=9), now
    )
    broken = replace(ready, folder=folder)
    with pytest.raises(StateError, match="cannot be loaded"):
        broken.release()


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
