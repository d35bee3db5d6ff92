"""Test scores of each contender, from one training set: every one sees the same rows and inputs,
stops early and is calibrated on the validation part, and never meets the test part before."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_work.environments import python_of
from feature_repo.contract import UseCase
from feature_repo.inputs import Array, input_columns, model_inputs
from feature_repo.tables import Table, read_table
from serving.preprocess import Preprocessor
from tasks.rows import Rows, labelled_rows
from tasks.types import TrainingConfig

PEERS = Path(__file__).parents[1] / "quality_peers"
PARTS = ("training", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A training set: the table for our own training, its parts for the others."""

    use_case: UseCase
    table: Table
    parts: Mapping[str, Rows]

    @classmethod
    def read(cls, use_case: UseCase, table: Table) -> Data:
        """The labelled rows of the three parts."""
        rows = read_table(table)
        return cls(
            use_case=use_case,
            table=table,
            parts={name: labelled_rows(use_case, rows, name) for name in PARTS},
        )


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Calibrated scores [n] of the validation and the test rows."""

    validation: Array
    test: Array


def network(data: Data, config: TrainingConfig) -> Scored:
    """Ours: the platform's own training."""
    import torch

    from serving.network import Calibrated
    from tasks.fit import fit

    fitted = fit(data.use_case, data.table, config, lambda told: print(" ", told, flush=True))
    binary = data.use_case.task == "binary"
    served = Calibrated(fitted.network, fitted.slope, fitted.intercept, binary).eval()

    def scores(rows: Rows) -> Array:
        arrays = fitted.preprocessor.transform(model_inputs(data.use_case, rows.columns))
        tensors = zip(*(torch.from_numpy(a).split(16_384) for a in arrays), strict=True)
        with torch.no_grad():
            return torch.cat([served(n, c) for n, c in tensors]).numpy().astype(np.float64)

    return Scored(validation=scores(data.parts["validation"]), test=scores(data.parts["test"]))


def boosting(data: Data, jobs: list[dict[str, Any]], folder: Path) -> Iterator[Scored]:
    """LightGBM, one fit a job, in an environment of its own; numbers as they are, missing ones
    too, and the categories as such."""
    import torch

    from tasks.calibration import calibrate

    files = [folder / name for name in ("arrays.npz", "jobs.json", "scores.npz")]
    np.savez(files[0], **_arrays(data))
    files[1].write_text(json.dumps(jobs))
    python = python_of("lightgbm", PEERS)
    subprocess.run([python, str(PEERS / "lightgbm_fit.py"), *map(str, files)], check=True)
    found = np.load(files[2])
    target = torch.from_numpy(data.parts["validation"].target)
    for number in range(len(jobs)):
        raw = {part: found[f"{part}_{number}"] for part in ("validation", "test")}
        slope, intercept = calibrate(torch.from_numpy(raw["validation"]), target, binary=True)
        yield Scored(
            **{part: 1 / (1 + np.exp(-slope * values - intercept)) for part, values in raw.items()}
        )


def _arrays(data: Data) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    names = input_columns(data.use_case)
    inputs = {p: model_inputs(data.use_case, rows.columns) for p, rows in data.parts.items()}
    codes = Preprocessor.fit(names, inputs["training"])
    for part, columns in inputs.items():
        numeric = np.stack([columns[name].astype(np.float32) for name in names.numeric], axis=1)
        categorical = codes.transform(columns)[1].astype(np.float32)
        arrays[f"{part}_x"] = np.concatenate([numeric, categorical], axis=1)
        arrays[f"{part}_y"] = data.parts[part].target
    arrays["categorical"] = np.arange(len(names.numeric), arrays["test_x"].shape[1])
    return arrays
