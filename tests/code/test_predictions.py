"""The prediction log read: complete, ordered, from open and sealed files alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_helpers import AT, BEGINNING, WEATHER, as_answered, every, prediction, record

from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving.answered import new_id, new_ids
from serving.predictions import columns_since, find, find_all, since
from serving.sealing import RETENTION, expired, seal_ended, sealed_files
from serving.segments import PredictionLog, folder_of, segments

FLIGHTS = get_use_case("flights")
Seal = Callable[[Home], object]


@pytest.fixture(params=["segments", "sealed"])
def seal(request: pytest.FixtureRequest) -> Seal:
    """Nothing, or what turns segments into Parquet: readers must not tell them apart."""
    if request.param == "segments":
        return lambda home: None
    return lambda home: [seal_ended(home, case) for case in ("flights", "weather")]


def test_what_was_recorded_is_found_whole_in_any_use_case(tmp_path: Path, seal: Seal) -> None:
    home = Home(root=tmp_path)
    first, second = (
        prediction(FLIGHTS),
        prediction(source="batch", stale=True, fallback="stale,missing", role="shadow"),
    )
    record(home, FLIGHTS, first, prediction(FLIGHTS))
    record(home, WEATHER, second)
    seal(home)
    assert find(home, first.id) == first
    assert find(home, second.id) == second
    assert find(home, "no such id") is None
    assert find(Home(root=tmp_path / "empty"), first.id) is None
    assert find_all(home, [first.id, second.id, "none"]) == {first.id: first, second.id: second}


def test_the_rows_of_a_request_keep_their_place_and_its_id(tmp_path: Path, seal: Seal) -> None:
    home, log = Home(root=tmp_path), PredictionLog(Home(root=tmp_path), WEATHER)
    rows = [prediction(request_id="r-1", row=i, score=i / 7, stale=i == 1) for i in range(3)]
    log.record(as_answered(rows, WEATHER))
    log.close()
    seal(home)
    assert sorted(every(home, WEATHER), key=lambda p: p.row) == rows


def test_a_vector_is_kept_as_the_caller_sent_it(tmp_path: Path, seal: Seal) -> None:
    """No tick and no ages; an answer from the store may lie beside it."""
    home, names = Home(root=tmp_path), input_columns(WEATHER).numeric
    features = {name: i / 7 if i else None for i, name in enumerate(names)}
    stored = prediction()
    vector = prediction(features=features, layout="vector", tick=None, ages_minutes={})
    record(home, WEATHER, stored, vector)
    seal(home)
    assert find_all(home, [vector.id, stored.id]) == {vector.id: vector, stored.id: stored}


def test_an_instant_in_fields_is_kept_as_text(tmp_path: Path, seal: Seal) -> None:
    home, made = Home(root=tmp_path), prediction(fields={"target_hour": AT, "origin": "JFK"})
    record(home, WEATHER, made)
    seal(home)
    found = find(home, made.id)
    assert found is not None
    assert found.fields["origin"] == "JFK"
    assert datetime.fromisoformat(found.fields["target_hour"]) == AT


def test_ids_are_unique_and_rise_with_time() -> None:
    ids = [*new_ids(500), *(new_id() for _ in range(500))]
    assert len(set(ids)) == 1000
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)
    assert {(len(i), i[12]) for i in ids} == {(32, "7")}
    assert {i[16] for i in ids} == set("89ab")


def test_answers_of_many_files_come_in_order_of_id_from_an_instant_on(tmp_path: Path) -> None:
    """Files that overlap, sealed ones and open ones, and one that is too old to be opened."""
    home = Home(root=tmp_path)
    made = [prediction(at=AT + timedelta(seconds=i)) for i in range(30)]
    for i in range(3):
        record(home, WEATHER, *made[i::3])
        if i < 2:
            seal_ended(home, "weather")
    record(home, WEATHER, old := prediction(at=AT - timedelta(days=1)))
    (sealed,) = seal_ended(home, "weather")[-1:]
    pq.write_table(pa.table({"broken": [1]}), sealed)
    with pytest.raises(StateError, match=rf"{sealed.name} cannot be read"):
        find(home, old.id)
    start = made[4].at
    chunks = list(since(home, "weather", start, chunk=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 6]
    assert [p for chunk in chunks for p in chunk] == sorted(made[4:], key=lambda p: p.id)
    names = ("id", "score")
    tables = list(columns_since(home, "weather", start, names))
    assert {i for t in tables for i in t["id"].to_pylist()} == {p.id for p in made[4:]}
    assert all(table.column_names == list(names) for table in tables)
    assert list(since(home, "none", BEGINNING)) == []


def test_a_search_opens_only_files_that_may_hold_the_id(tmp_path: Path) -> None:
    """The name of a sealed file tells; the others may be anything."""
    home = Home(root=tmp_path)
    made = [prediction(id=f"{i}" * 32) for i in range(4)]
    for one in made:
        record(home, WEATHER, one)
        seal_ended(home, "weather")
    for file in sealed_files(folder_of(home, "weather")):
        if file.first != made[2].id:
            file.path.write_bytes(b"not opened")
    assert find(home, made[2].id) == made[2]


def test_old_answers_may_go(tmp_path: Path) -> None:
    """All of the file must be past the retention."""
    home = Home(root=tmp_path)
    record(home, WEATHER, prediction(at=AT), prediction(at=AT + timedelta(days=3)))
    (sealed,) = seal_ended(home, "weather")
    assert list(expired(home, AT + RETENTION + timedelta(days=2))) == []
    assert list(expired(home, AT + RETENTION + timedelta(days=4))) == [sealed]


def test_a_sealed_file_is_typed_and_speaks_sql(tmp_path: Path) -> None:
    """Features by name, null where missing; fields as JSON; no column that would be empty."""
    import duckdb

    home, made = Home(root=tmp_path), prediction()
    record(home, WEATHER, made)
    (sealed,) = seal_ended(home, "weather")
    present, missing = WEATHER.features[1].name, WEATHER.features[-1].name
    names = f"features.{present}, features.{missing}, fields->>'carrier'"
    told = duckdb.connect().execute(f"SELECT {names} FROM '{sealed}'").fetchall()
    assert "inputs" not in pq.read_schema(sealed).names
    assert told == [(made.features[present], None, "UA")]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, "no list"), (1, "yesterday"), (1, "2013-11-05T14:05:00"), (3, "never"), (4, [[]]),
        (4, []), (5, "none"), (7, 1.0), (11, "perhaps"), (13, ["champion"]),
    ],
)  # fmt: skip
def test_an_altered_record_is_named(tmp_path: Path, position: int, value: Any) -> None:
    """Written by somebody who made its check sum right."""
    home, made = Home(root=tmp_path), prediction()
    record(home, WEATHER, made)
    (path,) = segments(folder_of(home, "weather"))
    data = path.read_bytes()
    start = data.rindex(b"AWF1")
    length = int.from_bytes(data[start + 12 : start + 16], "little")
    document = orjson.loads(data[start + 16 : start + 16 + length])
    document[position] = value
    text = orjson.dumps(document) + made.id.encode()[: 0 if position else 32]
    payload = len(text).to_bytes(4, "little") + text + data[start + 16 + length :]
    head = len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little")
    path.write_bytes(data[:start] + b"AWF1" + head + payload)
    said = rf"{path.name}: up to byte .* restore the prediction log"
    with pytest.raises(StateError, match=said):
        list(since(home, "weather", AT - timedelta(days=1)))
    with pytest.raises(StateError, match=said):
        seal_ended(home, "weather")
    if position:
        with pytest.raises(StateError, match=said):
            find(home, made.id)


def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    home, made = Home(root=tmp_path), prediction()
    record(home, WEATHER, made)
    folder = folder_of(home, "weather")
    (folder / f"{new_id()}.log").write_bytes(b"no log at all" * 100)
    with pytest.raises(StateError, match="does not begin as one"):
        find(home, "x")
    assert find(home, made.id) == made, "the other files are read all the same"
    with pytest.raises(StateError, match="does not begin as one"):
        seal_ended(home, "weather")
    (folder / "mine.parquet").write_bytes(b"")
    with pytest.raises(StateError, match=r"mine\.parquet is not named as"):
        find(home, made.id)


def test_answers_that_do_not_fit_the_features_are_refused(tmp_path: Path) -> None:
    """A server whose program and model part; nothing of theirs is written."""
    home = Home(root=tmp_path)
    answered = as_answered([prediction()], WEATHER)
    log = PredictionLog(home, WEATHER)
    with pytest.raises(StateError, match="1 answers in layout 'store' need arrays of"):
        log.record(replace(answered, values=answered.values[:, 1:]))
    log.record(answered)
    log.close()
    assert len(every(home, WEATHER)) == 1


def test_an_instant_is_the_same_in_any_zone(tmp_path: Path) -> None:
    """A regression: Arrow took the wall clock for UTC's."""
    home = Home(root=tmp_path)
    zone = timezone(timedelta(hours=-5))
    made = prediction(at=AT.astimezone(zone), prediction_time=AT.astimezone(zone))
    record(home, WEATHER, made)
    assert find(home, made.id) == made
    seal_ended(home, "weather")
    assert find(home, made.id) == made
