"""Auxiliary targets: training learns the measure that the label was cut from, no one else reads
it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from toy import TOY, toy_rows

from feature_repo.contract import UseCase
from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.model import AuxiliaryTargets
from feature_repo.tables import write_table
from feature_repo.training_sql import training_set_sql
from tasks.export import _export
from tasks.feature_versions import _known
from tasks.fit import Fitted, fit, save
from tasks.types import TrainingConfig

MEASURED = replace(
    TOY, auxiliary=AuxiliaryTargets(column="minutes", above=(-10.0, 0.0, 10.0, 20.0))
)
CONFIG = TrainingConfig(
    epochs=6, batch_size=64, width=32, layers=2, learning_rate=0.01, dropout=0.1
)


@pytest.fixture
def rows() -> pa.Table:
    """Few rows, and a label that is seldom true: it is late where it is more than 25 minutes."""
    rows = toy_rows(1000)
    delay = rows["origin_delay_mean"].fill_null(10.0).to_numpy()
    minutes = 0.8 * (delay - 10.0) + np.random.default_rng(5).normal(0, 10, len(delay))
    late = pa.array((minutes > 25.0).astype(np.float64))
    at = rows.schema.get_field_index("label")
    return rows.set_column(at, "label", late).append_column("minutes", pa.array(minutes))


def learned(case: UseCase, rows: pa.Table, folder: Path, **changed: Any) -> Fitted:
    """A training on these rows."""
    table = write_table(Home(root=folder), "training_set", rows)
    return fit(case, table, replace(CONFIG, **changed), lambda message: None)


@pytest.mark.parametrize("model", ["mlp", "tabm"])
def test_the_measure_says_more_than_the_label(rows: pa.Table, tmp_path: Path, model: str) -> None:
    """With it the validation rows, whose label alone is judged, are predicted better."""
    gained = []
    for seed in (1, 2):
        alone, beside = (
            learned(case, rows, tmp_path, model=model, seed=seed) for case in (TOY, MEASURED)
        )
        best = [min(epoch.validation_loss for epoch in f.curve) for f in (alone, beside)]
        gained.append(best[0] - best[1])
    assert sum(gained) / 2 > 0.005


def test_a_label_without_its_measure_is_refused(rows: pa.Table, tmp_path: Path) -> None:
    """By name, with an example; a row without label may lack both."""
    minutes = rows["minutes"].to_numpy().copy()
    first = int(np.flatnonzero(rows["split"].to_numpy(zero_copy_only=False) == "training")[0])
    minutes[first] = np.nan
    at = rows.schema.get_field_index("minutes")
    spoilt = rows.set_column(at, "minutes", pa.array(minutes, from_pandas=True))
    with pytest.raises(TrainingError, match=f"1 labelled row without 'minutes', .* r{first}: req"):
        learned(MEASURED, spoilt, tmp_path)
    label = rows.schema.get_field_index("label")
    labels = rows["label"].to_pylist()
    labels[first] = None
    learned(MEASURED, spoilt.set_column(label, "label", pa.array(labels)), tmp_path)


def test_a_label_that_was_not_cut_from_the_measure_is_refused(
    rows: pa.Table, tmp_path: Path
) -> None:
    """A turned sign would teach the contrary."""
    at = rows.schema.get_field_index("minutes")
    turned = rows.set_column(at, "minutes", pa.array(-rows["minutes"].to_numpy()))
    with pytest.raises(TrainingError, match=r"the label is no cut through 'minutes'.*is larger"):
        learned(MEASURED, turned, tmp_path)


def test_what_was_learned_beside_the_label_is_recorded(rows: pa.Table, tmp_path: Path) -> None:
    """In the record of the training and in the model's own file."""
    fitted = learned(MEASURED, rows, tmp_path / "home", epochs=1)
    for name in ("trained", "model"):
        (tmp_path / name).mkdir()
    save(fitted, replace(CONFIG, epochs=1), tmp_path / "trained")
    _export(MEASURED, tmp_path / "trained", tmp_path / "model")
    told = json.loads((tmp_path / "model" / "model.json").read_text())
    assert told["auxiliary"] == {"column": "minutes", "above": [-10.0, 0.0, 10.0, 20.0]}


def test_as_of_an_instant_a_measure_is_as_unknown_as_its_label(rows: pa.Table) -> None:
    """It is the label in finer form."""
    known = rows["label_available_at"][500].as_py()
    told = _known(rows, known, MEASURED.measures)
    assert told["minutes"].is_valid().equals(told["label"].is_valid())
    assert 0 < told["minutes"].null_count < told.num_rows


def test_no_model_reads_the_measure() -> None:
    """It is a column of the training set, after the label."""
    assert input_columns(MEASURED) == input_columns(TOY)
    told = training_set_sql(MEASURED).partition("label_available_at")[2]
    assert "_requests.minutes as double" in told
    assert "minutes" not in training_set_sql(TOY)
