"""Evaluation of the served graph, beside a reference, a constant and the champion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from judging_helpers import fresh_home, judged, state_of
from toy import TOY, toy_model, toy_registered, toy_rows, toy_training_set

from feature_repo.contract import UseCase
from feature_repo.errors import CertificateError, TrainingError
from feature_repo.home import Home, file_digest
from feature_repo.tables import write_table
from tasks.evaluate import evaluate, evaluate_rows
from tasks.pictures import draw_pictures
from tasks.rows import labelled_rows
from tasks.types import Folder


@pytest.fixture(autouse=True)
def _toy() -> Iterator[None]:
    with toy_registered():
        yield


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return fresh_home(tmp_path / "home")


def report(
    home: Home, table: pa.Table, model: Folder, champion: str = "", case: UseCase = TOY
) -> dict[str, Any]:
    training, test = (labelled_rows(case, table, s) for s in ("training", "test"))
    return evaluate_rows(case, Path(model.uri), training, test, champion, table)


def test_the_report_tells_every_figure_of_the_test_rows_only(home: Home) -> None:
    table = toy_rows()
    told = report(home, table, toy_model(home, table))
    test_rows = sum(s == "test" for s in table["split"].to_pylist())
    assert told["rows"] == test_rows
    assert told["days"] in (40, 41)
    for side in ("test", "reference"):
        for name, (low, high) in told[side]["ci"].items():
            assert low <= told[side][name] <= high, (side, name)
    assert told["constant"]["auc"] == 0.5
    assert told["test"]["auc"] > 0.7
    assert abs(told["reference"]["auc"] - told["test"]["auc"]) < 0.02
    assert sum(bin_["rows"] for bin_ in told["calibration"]) == test_rows
    assert len(told["precision_recall"]) <= 100
    assert told["precision_recall"][-1]["recall"] == 1
    json.dumps(told, allow_nan=False)


def test_slices_cover_all_rows_and_small_ones_do_not_decide(home: Home) -> None:
    table = toy_rows()
    told = report(home, table, toy_model(home, table))
    for name in TOY.slices:
        assert sum(entry["rows"] for entry in told["slices"][name].values()) == told["rows"]
    assert told["slices"]["carrier"]["UA"]["note"] == "too few rows"
    assert "auc" not in told["slices"]["carrier"]["UA"]
    aucs = [e["auc"] for e in told["slices"]["carrier"].values() if "auc" in e]
    assert told["slice_min"]["carrier"]["auc"] == min(aucs)
    assert told["slice_min"]["carrier"]["left_out"] == ["UA"]
    assert told["slice_min"]["origin"]["left_out"] == []
    assert len(aucs) == 2


def test_a_model_that_sees_less_is_significantly_worse_than_the_reference(home: Home) -> None:
    table = toy_rows()
    told = report(home, table, toy_model(home, table, slope=0.0))
    entry = told["versus_reference"]["auc"]
    assert entry["difference"] == pytest.approx(told["test"]["auc"] - told["reference"]["auc"])
    assert entry["high"] < 0
    assert entry["significant"] is True


def test_row_order_changes_no_figure(home: Home) -> None:
    table = toy_rows()
    model = toy_model(home, table)
    shuffled = table.take(np.random.default_rng(3).permutation(table.num_rows))
    one, other = (report(home, t, model) for t in (table, shuffled))
    assert one["test"]["auc"] == pytest.approx(other["test"]["auc"], abs=1e-12)
    assert one["test"]["ci"]["log_loss"] == pytest.approx(other["test"]["ci"]["log_loss"])


def test_twice_the_same_bytes_pictures_too(home: Home, tmp_path: Path) -> None:
    table = toy_rows()
    model = toy_model(home, table)
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        draw_pictures(report(home, table, model), folder)
        digests.append({p.name: file_digest(p) for p in folder.iterdir()})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"calibration.png", "precision_recall.png", "slices.png"}


def test_a_regression_is_told_in_its_own_metrics(home: Home, tmp_path: Path) -> None:
    case = replace(TOY, task="regression", unit="degrees", gate=())
    table = toy_rows()
    told = report(home, table, toy_model(home, table, case=case), case=case)
    assert set(told["test"]) == {"rmse", "mae", "r2", "ci"}
    assert told["headline"] == "rmse"
    assert told["slice_max"]["origin"]["rmse"] >= told["slice_min"]["origin"]["rmse"]
    assert told["constant"]["r2"] <= 0.0
    draw_pictures(told, tmp_path)
    assert (tmp_path / "predictions.png").stat().st_size > 5000


def test_the_champion_is_compared_in_pairs_on_later_rows(home: Home) -> None:
    champion = judged(home, slope=0.8).certified
    table = toy_rows()
    told = report(home, table, toy_model(home, table, slope=0.0), champion.model_dir)
    versus = told["versus_champion"]
    assert versus["subject"] == champion.subject
    assert versus["rows"] == told["rows"]
    assert versus["auc"]["high"] < 0
    assert versus["auc"]["significant"] is True
    same = report(home, table, toy_model(home, table, slope=0.8), champion.model_dir)
    assert same["versus_champion"]["auc"]["difference"] == 0
    assert "not significant" in same["versus_champion"]["note"]


def test_an_altered_champion_is_not_compared_with(home: Home) -> None:
    champion = judged(home, slope=0.8).certified
    graph = Path(champion.model_dir) / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b" ")
    table = toy_rows(days=120)
    with pytest.raises(CertificateError, match=r"model\.onnx"):
        report(home, table, toy_model(home, table, slope=0.0), champion.model_dir)


def test_rows_that_the_champion_learned_from_are_left_out(home: Home) -> None:
    """The champion was trained on later data: only what comes after it may judge the two."""
    champion = judged(home).certified
    table = toy_rows(days=120)
    days = table["event_time"].to_numpy().astype("datetime64[D]")
    first = days.min()
    early = np.where(
        days < first + 30, "training", np.where(days < first + 40, "validation", "test")
    )
    table = table.set_column(table.schema.get_field_index("split"), "split", pa.array(early))
    told = report(home, table, toy_model(home, table, slope=0.5), champion.model_dir)
    versus = told["versus_champion"]
    assert 0 < versus["rows"] < told["rows"] * 0.6
    assert versus["after"] > str(first + 70)


def test_no_later_rows_no_figures(home: Home) -> None:
    champion = judged(home).certified
    table = toy_rows(days=60)
    told = report(home, table, toy_model(home, table, slope=0.5), champion.model_dir)
    assert told["versus_champion"]["rows"] == 0
    assert "no rows after" in told["versus_champion"]["note"]
    assert "auc" not in told["versus_champion"]


def test_another_declaration_is_not_compared(home: Home) -> None:
    champion = judged(home).certified
    case = replace(TOY, fields=(*TOY.fields[:2], replace(TOY.fields[2], description="km")))
    table = toy_rows()
    told = report(home, table, toy_model(home, table, case=case), champion.model_dir, case)
    assert "another declaration" in told["versus_champion"]["note"]


def test_the_task_stores_report_and_pictures(home: Home, capsys: Any) -> None:
    training_set = toy_training_set(home)
    result = evaluate(
        state=state_of(home), use_case="toy", declaration=TOY.declaration,
        model=toy_model(home, toy_rows()), training_set=training_set, champion="",
    )  # fmt: skip
    files = {p.name for p in Path(result.evaluation.uri).iterdir()}
    assert files == {"evaluation.json", "calibration.png", "precision_recall.png", "slices.png"}
    assert result.metric == "auc"
    assert result.low < result.value < result.high
    assert "log_loss" in capsys.readouterr().err
    assert "worst auc over origin" in result.step.message


def test_no_test_row_is_an_error_that_says_what_to_do(home: Home) -> None:
    table = toy_rows()
    model = toy_model(home, table)
    split = pa.array(["training"] * table.num_rows)
    table = table.set_column(table.schema.get_field_index("split"), "split", split)
    stored = write_table(home, "training_set", table)
    with pytest.raises(TrainingError, match="widen the split dates"):
        evaluate(
            state=state_of(home), use_case="toy", declaration="d", model=model,
            training_set=stored, champion="",
        )  # fmt: skip
