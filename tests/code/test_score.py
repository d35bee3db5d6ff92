"""Batch scoring: the answers of the server, for a whole file, with ids that the audit finds."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from log_helpers import rewrite
from pipeline import Flown, Place
from serving_helpers import ask

from feature_repo.errors import SkewError, SourceError, StateError
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from serving import predictions
from serving.online import OnlineStore
from serving.releases import read_current
from tasks.audit import audit
from tasks.probe import server
from tasks.score import score_requests

Row = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """A scored file: when it was asked, its rows, and the rows of the file of predictions."""

    place: Place
    at: datetime
    asked: list[Row]
    answers: list[Row]


def write_csv(path: Path, rows: list[Row]) -> Path:
    """Rows as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def place(flown: Flown, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A copy of the finished home, to add predictions to."""
    return flown.copy(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def store_tick(place: Place) -> datetime:
    """The tick that the online store lies at."""
    weather = get_use_case("weather")
    store = OnlineStore(rows_of(place.home, weather), weather)
    tick = store.tick
    store.close()
    return tick


def forecasts(tick: datetime) -> list[Row]:
    """Each airport, and one that no training row had, for six hours of the day."""
    return [
        {"origin": origin, "target_hour": (tick + timedelta(hours=hours, minutes=15)).isoformat()}
        for origin in ("EWR", "JFK", "LGA", "BOS")
        for hours in range(1, 7)
    ]


def scored(place: Place, source: Path, at: datetime) -> str:
    """Score a file by the task, in the home of ``place``; the file of predictions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRWORTHY_HOME", str(place.root))
        return str(score_requests(use_case="weather", source=str(source), at=at).path)


@pytest.fixture(scope="module")
def batch(place: Place, store_tick: datetime, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """A file of requests, scored as of shortly after the store's tick."""
    asked, at = forecasts(store_tick), store_tick + get_use_case("weather").lag
    source = write_csv(tmp_path_factory.mktemp("requests") / "requests.csv", asked)
    return Batch(place, at, asked, pq.read_table(scored(place, source, at)).to_pylist())


def test_batch_answers_are_the_server_s(batch: Batch) -> None:
    """Row by row what a real server process answers to the same question at the same instant."""
    folder, _ = read_current(batch.place.home, "weather")
    instances = [row | {"prediction_time": batch.at.isoformat()} for row in batch.asked]
    with server(batch.place.home, "weather", folder, development=True) as port:
        body = json.dumps({"instances": instances}).encode()
        response = ask(port, "/v1/models/weather:predict", body)
    assert response.status == 200, response.text
    served = [answer["value"] for answer in response.body["predictions"]]
    assert [row["value"] for row in batch.answers] == pytest.approx(served, abs=1e-5)
    assert len(set(served)) > len(served) // 2


def test_rows_keep_their_order_and_say_what_answered(flown: Flown, batch: Batch) -> None:
    """One answer a row, in the file's order, with model version, certificate and tick."""
    assert [row["origin"] for row in batch.answers] == [row["origin"] for row in batch.asked]
    assert {row["model_version"] for row in batch.answers} == {"1.0.0"}
    assert {row["certificate"] for row in batch.answers} == {flown.summary["certificate"]["id"]}
    assert len({row["tick"] for row in batch.answers}) == 1


def test_every_batch_prediction_can_be_audited(batch: Batch) -> None:
    """Its id leads back to the raw file, like an answer over HTTP."""
    ids = [row["prediction_id"] for row in batch.answers]
    assert len(set(ids)) == len(ids)
    for row in batch.answers:
        found = predictions.find(batch.place.home, row["prediction_id"])
        assert found is not None
        assert found.source == "batch"
        assert found.score == row["value"]
    told = audit(batch.place.home, prediction_id=ids[0])
    assert f"{ids[0]} (batch)" in told
    assert "raw file     weather.csv" in told


def test_an_altered_prediction_is_not_told_as_verified(batch: Batch) -> None:
    """A regression: a value that was changed in the log stops the audit, until it is put back."""
    row = batch.answers[1]

    def write(value: float) -> None:
        rewrite(batch.place.home, get_use_case("weather"), row["prediction_id"], score=value)

    write(row["value"] + 0.01)
    with pytest.raises(SkewError, match=f"prediction {row['prediction_id']}") as refused:
        audit(batch.place.home, prediction_id=row["prediction_id"])
    assert repr(row["value"] + 0.01) in str(refused.value)
    write(row["value"])
    assert "by this model: equal" in audit(batch.place.home, prediction_id=row["prediction_id"])


def test_outcomes_of_batch_answers_are_joined_by_the_command(batch: Batch) -> None:
    """Those whose hour was observed have their label; those after the year's end wait."""
    done = batch.place.run("predictions:outcomes", "--use_case", "weather", "--since", "2013-12-30")
    assert done.code == 0, done.said
    table = pq.read_table(batch.place.home.path("reports", "outcomes-weather.parquet"))
    rows = {row["id"]: row for row in table.to_pylist()}
    assert {row["prediction_id"] for row in batch.answers} <= set(rows)
    assert f"{len(rows):,} answers" in done.said
    known = [row for row in rows.values() if row["label"] is not None]
    assert all(row["loss"] == pytest.approx((row["score"] - row["label"]) ** 2) for row in known)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"drop": "target_hour"}, "column target_hour is missing"),
        ({"target_hour": "tomorrow"}, "row 2, target_hour of the requests is refused"),
        ({"at": -timedelta(hours=12)}, r"--at \S+ is refused: reads tick .* already at"),
    ],
)
def test_bad_file_is_refused_by_name_and_leaves_nothing(
    place: Place, store_tick: datetime, tmp_path: Path, change: Row, named: str
) -> None:
    """The column, the cell, or the instant that the store is already past."""
    rows = forecasts(store_tick)[:3]
    if "drop" in change:
        rows = [{k: v for k, v in row.items() if k != change["drop"]} for row in rows]
    rows[1] |= {k: v for k, v in change.items() if k in rows[1]}
    at = store_tick + get_use_case("weather").lag + change.get("at", timedelta())
    before = sorted((place.root / "scores").rglob("*"))
    with pytest.raises(SourceError, match=named):
        scored(place, write_csv(tmp_path / "bad.csv", rows), at)
    assert sorted((place.root / "scores").rglob("*")) == before


def test_refused_row_is_counted_through_the_whole_file(
    place: Place, store_tick: datetime, tmp_path: Path
) -> None:
    """Rows go to the model by the thousand; the number in the message is the file's."""
    rows = [dict(forecasts(store_tick)[0], prediction_time="") for _ in range(1100)]
    rows[1049]["prediction_time"] = (store_tick - timedelta(hours=12)).isoformat()
    at = store_tick + get_use_case("weather").lag
    with pytest.raises(SourceError, match=r"row 1,050, prediction_time of the requests is refused"):
        scored(place, write_csv(tmp_path / "late.csv", rows), at)


def test_missing_file_is_refused_by_name(place: Place, tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(SourceError, match=r"nowhere\.csv is no file"):
        scored(place, tmp_path / "nowhere.csv", datetime(2013, 12, 30, tzinfo=timezone.utc))


def test_home_without_a_release_is_told_apart(tmp_path: Path) -> None:
    """Nothing was released there yet: say so, not that the file is bad."""
    source = write_csv(tmp_path / "requests.csv", [{"origin": "JFK", "target_hour": "2014-01-01"}])
    empty = Place(tmp_path / "home", tmp_path / "user")
    with pytest.raises(StateError, match="no model of 'weather' is champion"):
        scored(empty, source, datetime(2013, 12, 30, tzinfo=timezone.utc))
