"""Measured skew: real answers against the offline rows of today, before and after a correction."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year
from log_helpers import prediction, record
from serving_helpers import certified_model

from feature_repo import offline
from feature_repo.engine import compute_views
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.store import materialise
from feature_repo.tables import Table, named, read_table, write_table
from serving.instances import InstanceForm
from serving.loading import load_service
from serving.predictions import since
from serving.segments import PredictionLog
from serving.skew import SkewReport, measure
from tasks.ledger import own_trust
from tasks.skew import deck, measure_skew

TICK = datetime(2013, 5, 3, 12, 0, tzinfo=timezone.utc)
END = datetime(2014, 1, 1, tzinfo=timezone.utc)
BEGINNING = datetime(2013, 1, 1, tzinfo=timezone.utc)
ASKED = {
    "target_hour": "2013-05-03T15:00:00Z",
    "prediction_time": (TICK + timedelta(minutes=5)).isoformat(),
}


@pytest.fixture(scope="module")
def answered(weather_year: Year, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which a real service answered six questions from a real store."""
    home, use_case = Home(root=tmp_path_factory.mktemp("skew")), weather_year.use_case
    folder, _ = certified_model(home, use_case)
    materialise(home, use_case, weather_year.views, TICK)
    service = load_service(home, use_case, folder, trust=own_trust(home))
    origins = ("EWR", "JFK", "LGA", "XXX")
    form = InstanceForm(use_case)
    asked = [form.instance(0, {**ASKED, "origin": origin}, TICK) for origin in origins]
    log = PredictionLog(home, use_case)
    log.record(service.ask(asked).answered, service.ask(asked[:2]).answered)
    log.close()
    service.close()
    return home


def mended(year: Year, home: Home, hours: float, temp: float) -> Table:
    """The raw table, JFK's temperature of one hour, ``hours`` before the tick, corrected."""
    good = named(year.tables, "weather")
    rows = read_table(good)
    at = pa.scalar(TICK - timedelta(hours=hours), rows["time_hour"].type)
    wrong = pc.and_(pc.equal(rows["origin"], "JFK"), pc.equal(rows["time_hour"], at))
    assert pc.sum(wrong).as_py() == 1
    values = pc.if_else(wrong, temp, rows["temp"])
    position = rows.schema.get_field_index("temp")
    return write_table(home, "weather", rows.set_column(position, "temp", values))


def corrected(year: Year, place: Path, hours: float, temp: float) -> list[Table]:
    """The views of that table."""
    home = Home(root=place)
    return compute_views(home, year.use_case, [mended(year, home, hours, temp)])


def differing(report: SkewReport) -> dict[str, int]:
    return {skew.name: skew.differing for skew in report.features if skew.differing}


def test_answers_hold_the_rows_of_their_tick(answered: Home, weather_year: Year) -> None:
    report = measure(answered, weather_year.use_case, weather_year.views, BEGINNING, END)
    assert (report.answers, report.left_out) == (6, 0)
    assert [skew.compared for skew in report.features] == [6] * len(weather_year.use_case.features)
    assert report.share == 0.0
    assert differing(report) == {}
    assert [(skew.compared, skew.differing) for skew in report.ages] == [(6, 0), (6, 0)]


def test_a_correction_shows_as_skew_by_feature_and_answer(
    answered: Home, weather_year: Year, tmp_path: Path
) -> None:
    """Ten hours back: in the mean of a day, and in no other feature; JFK's two answers only."""
    views = corrected(weather_year, tmp_path, hours=10, temp=20.0)
    report = measure(answered, weather_year.use_case, views, BEGINNING, END)
    assert differing(report) == {"temp_mean_24h": 2}
    (skew,) = (skew for skew in report.features if skew.differing)
    jfk = [
        p.id for chunk in since(answered, "weather", BEGINNING) for p in chunk
        if p.fields["origin"] == "JFK"
    ]  # fmt: skip
    assert skew.examples == jfk
    assert (skew.view, skew.missing, skew.share) == ("station_observations", 0, 2 / 6)
    assert 0.5 < skew.largest < 5
    assert report.share == pytest.approx(2 / (6 * len(report.features)))
    assert all(ages.differing == 0 for ages in report.ages)
    document = report.document()
    assert document["share"] == report.share
    told = {entry["name"]: entry for entry in document["features"]}
    assert told["temp_mean_24h"]["examples"] == jfk


def test_the_last_value_s_correction_shows_in_each_feature_that_read_it(
    answered: Home, weather_year: Year, tmp_path: Path
) -> None:
    views = corrected(weather_year, tmp_path, hours=1, temp=20.0)
    report = measure(answered, weather_year.use_case, views, BEGINNING, END)
    assert differing(report) == dict.fromkeys(
        ("temp_now", "temp_mean_3h", "temp_mean_6h", "temp_mean_24h"), 2
    )


def test_a_late_view_shows_in_its_ages(answered: Home, weather_year: Year) -> None:
    """Rows that were served and are gone: missing values, and ages that only one side has."""
    name = "station_observations"
    rows = read_table(named(weather_year.views, name))
    recent = pc.and_(
        pc.greater(rows["event_timestamp"], pa.scalar(TICK - timedelta(days=3))),
        pc.equal(rows["origin"], "LGA"),
    )
    cut = write_table(answered, name, rows.filter(pc.invert(recent)))
    views = [cut if view.name == name else view for view in weather_year.views]
    report = measure(answered, weather_year.use_case, views, BEGINNING, END)
    ages = {skew.name: skew for skew in report.ages}
    assert (ages[name].differing, ages[name].missing) == (1, 1)
    assert ages["station_yesterday"].differing == 0
    assert all(skew.missing == skew.differing == 1 for skew in report.features if skew.view == name)


def test_the_task_measures_against_the_newest_version(
    answered: Home, weather_year: Year, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No skew; then the raw row is corrected, a new version recomputes it, and skew is found."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(answered.root))
    use_case = weather_year.use_case
    with pytest.raises(StateError, match="no version of the features"):
        measure_skew(use_case="weather", since=BEGINNING)
    offline.update(answered, use_case, weather_year.tables)
    clean = measure_skew(use_case="weather", since=BEGINNING)
    assert clean.share == 0.0
    assert "6 answers, 96 values, 0 differ" in clean.step.message
    version = offline.update(answered, use_case, [mended(weather_year, answered, 10, 20.0)])
    assert (version.number, version.rebuilt) == (2, 0)
    found = measure_skew(use_case="weather", since=BEGINNING)
    assert found.share == pytest.approx(2 / 96)
    document = json.loads(Path(found.report).read_text())
    (entry,) = (e for e in document["features"] if e["differing"])
    assert (entry["name"], entry["differing"], entry["share"]) == ("temp_mean_24h", 2, 2 / 6)
    assert f"temp_mean_24h 2 (for example prediction {entry['examples'][0]})" in found.step.message
    gauges = Path(found.report).with_suffix(".prom").read_text()
    assert 'airworthy_skew_share{feature="temp_mean_24h",use_case="weather"} 0.333' in gauges
    assert 'airworthy_skew_share{feature="dewp_mean_6h",use_case="weather"} 0.0' in gauges
    report = measure(answered, use_case, version.built.views, BEGINNING, END)
    shown = deck(report)
    assert "data:image/png;base64," in shown
    assert all(prediction in shown for prediction in entry["examples"])


def test_since_and_declaration_say_which_answers_count(answered: Home, weather_year: Year) -> None:
    use_case = weather_year.use_case
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert measure(answered, use_case, weather_year.views, later, END).answers == 0
    other = replace(use_case, lag=timedelta(minutes=10))
    report = measure(answered, other, weather_year.views, BEGINNING, END)
    assert (report.answers, report.left_out, report.share) == (0, 6, 0.0)
    early = measure(answered, use_case, weather_year.views, BEGINNING, TICK - timedelta(minutes=1))
    assert (early.answers, early.left_out) == (0, 6), "the views do not reach those ticks"
    assert measure(answered, replace(use_case, name="none"), [], BEGINNING, END).answers == 0


def test_an_answer_to_a_vector_has_no_offline_row(weather_year: Year, tmp_path: Path) -> None:
    home, use_case = Home(root=tmp_path), weather_year.use_case
    features: dict[str, float | None] = dict.fromkeys(input_columns(use_case).numeric, 1.0)
    vector = prediction(use_case, tick=None, layout="vector", features=features, ages_minutes={})
    record(home, use_case, vector)
    report = measure(home, use_case, weather_year.views, BEGINNING, END)
    assert (report.answers, report.left_out) == (0, 1)
