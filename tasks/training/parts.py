"""The rows that a training reads: resident in memory, indexed by permutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from feature_repo.errors import TrainingError
from feature_repo.inputs import Array, input_columns, model_inputs
from feature_repo.tables import Table, read_table
from feature_repo.wording import counted
from serving.preprocess import Preprocessor
from tasks.rows import arrays_of, labelled
from tasks.training.ranks import device

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Rows of one split, resident in memory: [n, d], [n, k] and [n] tensors, and the auxiliary
    targets [n, t] where the training learns them."""

    numeric: torch.Tensor
    categorical: torch.Tensor
    target: torch.Tensor
    auxiliary: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Both parts, their fitted preprocessing, and (mean, deviation) of a regression's target."""

    preprocessor: Preprocessor
    training: Part
    validation: Part
    scale: tuple[float, float]


def auxiliary_of(use_case: UseCase, rows: pa.Table) -> Array | None:
    """Auxiliary targets [n, t] of labelled rows, 0 or 1, where the use case has any.

    Raises:
        TrainingError: a label without its measure, or one that was not cut from it.
    """
    if use_case.auxiliary is None:
        return None
    column = use_case.auxiliary.column
    measure = rows[column].to_numpy(zero_copy_only=False).astype(np.float64)
    lacking = np.flatnonzero(~np.isfinite(measure))
    if len(lacking):
        raise TrainingError(
            f"{use_case.name}: {counted(len(lacking), 'labelled row')} without {column!r}, for "
            f"example {rows['request_id'][lacking[0]]}: requests_sql must yield it where it yields "
            "a label"
        )
    label = rows["label"].to_numpy() > 0
    if label.any() and not label.all() and measure[label].min() <= measure[~label].max():
        raise TrainingError(
            f"{use_case.name}: the label is no cut through {column!r}: one row with it has "
            f"{measure[label].min():g}, one without it {measure[~label].max():g}; name the measure "
            "that is larger wherever the label is true"
        )
    return (measure[:, None] > np.array(use_case.auxiliary.above)).astype(np.float64)


def read_parts(
    use_case: UseCase, table: Table, dtype: torch.dtype = torch.float32, *, auxiliary: bool = False
) -> Parts:
    """Read both splits; ``dtype`` is that of numbers and targets. ``auxiliary``: the training part
    with the use case's auxiliary targets.

    Raises:
        TrainingError: a split without labelled rows, an infinite input, a label that is not
            finite or lacks the auxiliary measure.
    """
    whole = read_table(table)
    found = {split: labelled(whole, split) for split in ("training", "validation")}
    arrays = {name: arrays_of(use_case, rows) for name, rows in found.items()}
    inputs = {name: model_inputs(use_case, rows.columns) for name, rows in arrays.items()}
    for name, rows in found.items():
        _check_rows(use_case, name, rows, inputs[name])
    preprocessor = Preprocessor.fit(input_columns(use_case), inputs["training"])
    labels, regression = arrays["training"].target, use_case.task == "regression"
    scale = (float(labels.mean()), float(labels.std()) or 1.0) if regression else (0.0, 1.0)

    def part(name: str, beside: Array | None = None) -> Part:
        numeric, categorical = preprocessor.transform(inputs[name])
        scaled = (arrays[name].target - scale[0]) / scale[1]
        return Part(
            numeric=torch.from_numpy(numeric).to(device(), dtype),
            categorical=torch.from_numpy(categorical).to(device()),
            target=torch.from_numpy(scaled).to(device(), dtype),
            auxiliary=None if beside is None else torch.from_numpy(beside).to(device(), dtype),
        )

    beside = auxiliary_of(use_case, found["training"]) if auxiliary else None
    return Parts(
        preprocessor=preprocessor,
        training=part("training", beside),
        validation=part("validation"),
        scale=scale,
    )


def _check_rows(use_case: UseCase, split: str, rows: pa.Table, inputs: dict[str, Array]) -> None:
    """There are some, and none holds a value that would make all scores no numbers. An input may
    be missing, a label here may not."""
    if not rows.num_rows:
        raise TrainingError(
            f"{use_case.name}: split {split!r} has no labelled row; widen the split dates"
        )
    numeric = input_columns(use_case).numeric
    wrong = {name: np.isinf(inputs[name].astype(np.float64)) for name in numeric}
    wrong["label"] = ~np.isfinite(rows["label"].to_numpy().astype(np.float64))
    for name, where in wrong.items():
        if where.any():
            raise TrainingError(
                f"{use_case.name}: {name!r} is not finite in {counted(int(where.sum()), 'row')} of "
                f"split {split!r}, for example {rows['request_id'][int(where.argmax())]}: have the "
                "SQL, or the derived input's function, yield NULL for what was not measured"
            )
