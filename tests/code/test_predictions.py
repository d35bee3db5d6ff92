"""The prediction log: complete, ordered, and written by several processes at once."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.predictions import Prediction, PredictionLog, find, new_id, since

AT = datetime(2013, 11, 5, 14, 5, 0, 123456, tzinfo=timezone.utc)


def prediction(use_case: str = "flights") -> Prediction:
    """A prediction with a missing feature and an unknown key."""
    fields: Mapping[str, object] = {"carrier": "UA", "tailnum": None, "distance": 2565.0}
    return Prediction(
        id=new_id(), use_case=use_case, at=AT, prediction_time=AT, tick=AT, fields=fields,
        score=0.25, version="1.0.0", certificate="cert-1", subject="0" * 64,
        features={"temp": 41.0, "late": None}, ages_minutes={"weather": 15.0, "tail": None},
    )  # fmt: skip


def test_what_was_recorded_is_found_whole_in_any_use_case(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    first, second = prediction("flights"), replace(prediction("weather"), source="batch")
    PredictionLog(home, "flights").record([first, prediction()])
    PredictionLog(home, "weather").record([second])
    assert find(home, first.id) == first
    assert find(home, second.id) == second
    assert find(home, "no such id") is None
    assert find(Home(root=tmp_path / "empty"), first.id) is None


def test_an_instant_in_fields_is_kept_as_text(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    made = replace(prediction(), fields={"scheduled_departure": AT})
    PredictionLog(home, "flights").record([made])
    found = find(home, made.id)
    assert found is not None
    assert datetime.fromisoformat(found.fields["scheduled_departure"]) == AT


def test_a_batch_is_recorded_whole_or_not_at_all(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    log, one, two = PredictionLog(home, "flights"), prediction(), prediction()
    log.record([one])
    with pytest.raises(StateError, match=r"flights\.db"):
        log.record([two, one])
    assert find(home, two.id) is None
    log.record([two])
    assert find(home, two.id) == two


def test_ids_are_unique_and_rise_with_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)
    assert {i[12] for i in ids} == {"7"}


def _write(root: str, count: int) -> None:
    log = PredictionLog(Home(root=Path(root)), "flights")
    for _ in range(count):
        log.record([prediction()])


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path), 100)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with sqlite3.connect(tmp_path / "predictions" / "flights.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM predictions").fetchone()
    assert count == 200


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    home.path("predictions", "flights.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError, match=r"flights\.db"):
        PredictionLog(home, "flights")
    with pytest.raises(StateError, match=r"flights\.db"):
        find(home, "x")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("features", '{"temp": '), ("fields", "[]"), ("ages_minutes", "null"),
        ("tick", "yesterday"), ("at", "2013-11-05T14:05:00"), ("score", "high"),
        ("version", b"1.0.0"),
    ],
)  # fmt: skip
def test_an_altered_record_is_named_with_its_field(
    tmp_path: Path, column: str, value: str | bytes
) -> None:
    home, made = Home(root=tmp_path), prediction()
    PredictionLog(home, "flights").record([made])
    with sqlite3.connect(tmp_path / "predictions" / "flights.db") as log:
        log.execute(f"UPDATE predictions SET {column} = ?", (value,))
    said = rf"prediction {made.id}: '{column}' is recorded as .* restore the prediction log"
    with pytest.raises(StateError, match=said):
        find(home, made.id)
    with pytest.raises(StateError, match=said):
        list(since(home, "flights", AT - timedelta(days=1)))
