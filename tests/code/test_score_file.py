"""Batch scoring at its edges: cells of other types, and a task that is tried again."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from killing import killed_at
from log_helpers import every
from serving_helpers import FLIGHT, TICK, certified_model, flights_store

from feature_repo.errors import SourceError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import predictions
from serving.releases import write_current
from tasks.score import keep, read_requests, score

AT = datetime.fromisoformat(str(FLIGHT["prediction_time"]))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which a small flights model is released."""
    place = Home(root=tmp_path_factory.mktemp("scored"))
    folder, certificate = certified_model(place, get_use_case("flights"), version="1.0.0")
    flights_store(place)
    write_current(place, "flights", certificate.subject, folder, "1.0.0")
    return place


def asked(home: Home, path: Path, **columns: list[Any]) -> Path:
    """Score a Parquet file of two rows, with some columns of other cells; its predictions."""
    use_case = get_use_case("flights")
    pl.DataFrame({k: [v, v] for k, v in FLIGHT.items()} | columns).write_parquet(path)
    return keep(home, use_case, score(home, use_case, read_requests(path, use_case), AT), AT)


@pytest.mark.parametrize(
    "cells",
    [
        [date(2013, 1, 1), date(2013, 1, 2)],
        [[2565.0], [2565.0]],
        [TICK, TICK],
        [timedelta(1), timedelta(2)],
        [True, False],
        [{"miles": 1}, {"miles": 2}],
        [b"far", b"off"],
        ["far", "off"],
    ],
)
def test_number_of_another_type_is_refused_by_row_and_field(
    home: Home, tmp_path: Path, cells: list[Any]
) -> None:
    """Whatever type a Parquet column has, the message says where it stands."""
    with pytest.raises(SourceError, match="row 1, distance of the requests is refused: must be"):
        asked(home, tmp_path / "requests.parquet", distance=cells)


def test_list_in_a_text_column_is_refused(home: Home, tmp_path: Path) -> None:
    """It is not taken for the text that prints it."""
    with pytest.raises(SourceError, match="row 1, carrier of the requests is refused"):
        asked(home, tmp_path / "requests.parquet", carrier=[["UA"], ["AA"]])


def test_decimals_and_instants_are_taken(home: Home, tmp_path: Path) -> None:
    """Parquet's own types for what the request states as number and text."""
    miles, departure = Decimal("2565"), datetime.fromisoformat(str(FLIGHT["scheduled_departure"]))
    typed = asked(
        home, tmp_path / "typed.parquet", distance=[miles] * 2, scheduled_departure=[departure] * 2
    )
    plain = asked(home, tmp_path / "plain.parquet")
    scores = [pq.read_table(path)["probability"].to_pylist() for path in (typed, plain)]
    assert scores[0] == scores[1]


def recorded(home: Home) -> int:
    """How many predictions the log holds."""
    return len(every(home, get_use_case("flights")))


def test_repeated_call_records_nothing_twice(home: Home, tmp_path: Path) -> None:
    """A retry gives the same file with the same ids; another file of requests its own."""
    first = asked(home, tmp_path / "requests.parquet", flight=["1", "2"])
    before, ids = recorded(home), pq.read_table(first)["prediction_id"].to_pylist()
    first.unlink()
    again = asked(home, tmp_path / "requests.parquet", flight=["1", "2"])
    assert again == first
    assert pq.read_table(again)["prediction_id"].to_pylist() == ids
    assert recorded(home) == before
    other = asked(home, tmp_path / "other.parquet", flight=["1", "3"])
    assert other != first
    assert recorded(home) == before + 2


def test_kill_at_any_line_leaves_whole_files_of_recorded_answers(
    home: Home, tmp_path: Path
) -> None:
    """Under a final name there are only files whose every id is in the log, and a rerun heals."""
    use_case, line = get_use_case("flights"), 1
    path = tmp_path / "requests.parquet"
    questions = {k: [v, v] for k, v in FLIGHT.items()} | {"flight": ["7", "8"]}
    pl.DataFrame(questions).write_parquet(path)
    answers = score(home, use_case, read_requests(path, use_case), AT)
    before = recorded(home)
    while killed_at(line, "tasks.score", lambda: keep(home, use_case, answers, AT)):
        for path in home.root.glob("scores/flights/[!.]*"):
            for prediction_id in pq.read_table(path)["prediction_id"].to_pylist():
                assert predictions.find(home, prediction_id) is not None
        line += 6
    assert line > 6
    path = keep(home, use_case, answers, AT)
    assert pq.read_table(path).num_rows == 2
    assert recorded(home) == before + 2
