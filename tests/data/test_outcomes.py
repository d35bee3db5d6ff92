"""Outcomes: recorded answers and the labels that come later, by what the request was about."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Year
from log_helpers import BEGINNING, prediction, record

from feature_repo import offline
from feature_repo.contract import UseCase
from feature_repo.errors import DeclarationError, StateError
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.tables import read_table
from serving.outcomes import pairs, read_outcomes
from serving.predictions import Prediction
from serving.sealing import seal_ended
from tasks.outcomes import join_outcomes, salvage_log

END = datetime(2015, 1, 1, tzinfo=timezone.utc)


def requests(year: Year, count: int, *names: str) -> list[dict[str, Any]]:
    """Rows of the training set that have a label, from its middle on."""
    rows = read_table(year.training_set).select(
        [*(f.name for f in year.use_case.fields), "label", "label_available_at", "event_time"]
    )
    labelled = rows.slice(rows.num_rows // 2, 20 * count).to_pylist()
    return [row for row in labelled if row["label"] is not None][:count]


def answers(use_case: UseCase, rows: Sequence[dict[str, Any]], **changes: Any) -> list[Prediction]:
    """An answer to each."""
    made = []
    for row in rows:
        fields = {f.name: row[f.name] for f in use_case.fields}
        made.append(prediction(use_case, fields=fields, **changes))
    return made


def test_each_answer_gets_the_label_of_its_flight_once_it_is_available(
    flights_year: Year, tmp_path: Path
) -> None:
    """Whatever the caller said of tail number and distance; sealed and open files alike."""
    home, use_case, rows = Home(root=tmp_path), flights_year.use_case, requests(flights_year, 40)
    made = answers(use_case, rows, score=0.25)
    other = dict(made[0].fields) | {"tailnum": None, "distance": 1.0}
    made[0] = replace(made[0], fields=other)
    record(home, use_case, *made[:20])
    seal_ended(home, "flights")
    record(home, use_case, *made[20:])
    found = read_outcomes(home, use_case, flights_year.tables, BEGINNING, END)
    assert (found.answers, found.joined, found.waiting, found.unnamed) == (40, 40, 0, 0)
    told = {row["id"]: row for row in found.table.to_pylist()}
    for one, row in zip(made, rows, strict=True):
        said = told[one.id]
        assert (said["label"], said["available_at"]) == (row["label"], row["label_available_at"])
        assert said["event_time"] == row["event_time"]
        assert said["loss"] == pytest.approx(-math.log(0.25 if row["label"] else 0.75))
        assert said["entity"].startswith(f"{row['carrier']}_{row['flight']}_{row['origin']}_2013-")

    middle = sorted(row["label_available_at"] for row in rows)[19]
    early = read_outcomes(home, use_case, flights_year.tables, BEGINNING, middle)
    known = sum(row["label_available_at"] <= middle for row in rows)
    assert (early.joined, early.waiting) == (known, 40 - known)
    assert early.table["label"].null_count == early.table["loss"].null_count == 40 - known


def test_what_was_asked_is_counted(weather_year: Year, tmp_path: Path) -> None:
    """Twice about one hour, about an hour to come, and by a vector, which does not say."""
    home, use_case = Home(root=tmp_path), weather_year.use_case
    rows = requests(weather_year, 3)
    ahead = dict(rows[0]) | {"target_hour": END}
    features: dict[str, float | None] = dict.fromkeys(input_columns(use_case).numeric, 0.0)
    vector = prediction(
        use_case, tick=None, layout="vector", features=features, ages_minutes={}, fields={}
    )
    record(
        home, use_case, *answers(use_case, [*rows, rows[0], ahead], score=50.0), vector,
        *answers(use_case, rows[:1], role="shadow", score=51.0),
    )  # fmt: skip
    found = read_outcomes(home, use_case, weather_year.tables, BEGINNING, END)
    assert (found.answers, found.joined, found.waiting) == (7, 5, 1)
    assert (found.unnamed, found.doubled) == (1, 1)
    (shadow,) = (row for row in found.table.to_pylist() if row["role"] == "shadow")
    assert shadow["loss"] == pytest.approx((51.0 - rows[0]["label"]) ** 2)
    none = read_outcomes(home, use_case, weather_year.tables, END + timedelta(days=9_999), END)
    assert (none.answers, none.joined, none.doubled) == (0, 0, 0)


def test_pairs_are_of_one_question(weather_year: Year, tmp_path: Path) -> None:
    """By the request's id, the row and what it is about, since callers send one id several times; a
    question that came twice counts once, one without a label comes last, one that only the
    champion answered not at all."""
    home, use_case = Home(root=tmp_path), weather_year.use_case
    rows = requests(weather_year, 3)
    rows.append(rows[0] | {"target_hour": END})
    for role, offset in (("champion", 0.0), ("shadow", 1.0), ("champion", 9.0)):
        for place, row in reversed(list(enumerate(rows))):
            (one,) = answers(use_case, [row], role=role, score=place + offset, row=place % 2)
            record(home, use_case, replace(one, request_id=f"r{place // 2}", row=0))
    record(home, use_case, *answers(use_case, rows[:1], role="champion", request_id="r9"))
    record(home, use_case, *answers(use_case, rows[:1], role="shadow"))
    record(home, use_case, *answers(use_case, rows[:1], role="champion", request_id="r8"))
    record(home, use_case, *answers(use_case, rows[1:2], role="shadow", request_id="r8"))
    table = read_outcomes(home, use_case, weather_year.tables, BEGINNING, END).table
    found = pairs(table).to_pylist()
    assert sorted((p["request_id"], p["row"]) for p in found) == [("r0", 0)] * 2 + [("r1", 0)] * 2
    assert len({p["entity"] for p in found}) == len(found)
    assert pairs(table, "canary").num_rows == 0
    assert [p["available_at"] for p in found] == sorted(
        (p["available_at"] for p in found), key=lambda at: (at is None, at)
    )
    for pair in found:
        assert pair["challenger_score"] == pair["champion_score"] + 1.0
        if pair["label"] is not None:
            error = pair["champion_score"] - pair["label"]
            assert pair["champion_loss"] == pytest.approx(error**2)


def test_an_identity_that_names_several_requests_is_refused(
    weather_year: Year, tmp_path: Path
) -> None:
    home, use_case = Home(root=tmp_path), replace(weather_year.use_case, identity=("origin",))
    record(home, use_case, *answers(use_case, requests(weather_year, 1)))
    with pytest.raises(DeclarationError, match="requests have the identity origin of"):
        read_outcomes(home, use_case, weather_year.tables, BEGINNING, END)
    with pytest.raises(DeclarationError, match="identity 'airport' is no request field"):
        replace(use_case, identity=("airport",))


def test_the_task_writes_the_table_and_its_summary(
    weather_year: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    home, use_case = Home(root=tmp_path), weather_year.use_case
    with pytest.raises(StateError, match="no version of the features"):
        join_outcomes(use_case="weather", since=BEGINNING)
    offline.update(home, use_case, weather_year.tables)
    rows = requests(weather_year, 4)
    record(home, use_case, *answers(use_case, rows, score=rows[0]["label"]))
    joined = join_outcomes(use_case="weather", since=BEGINNING)
    assert joined.joined == 4
    assert "4 answers, 4 with their label" in joined.step.message
    assert "champion 1.0.0: 4 with a mean loss of" in joined.step.message
    table: pa.Table = pq.read_table(joined.table)
    assert sorted(table["label"].to_pylist()) == sorted(row["label"] for row in rows)
    document = json.loads(Path(joined.table).with_suffix(".json").read_text())
    (model,) = document["models"]
    assert (model["role"], model["version"], model["answers"]) == ("champion", "1.0.0", 4)
    assert document["pairs"] == {"shadow": 0, "canary": 0}
    assert salvage_log(use_case="weather") == "1 segments sealed"
    assert join_outcomes(use_case="weather", since=BEGINNING).joined == 4
