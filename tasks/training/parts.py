"""The rows that a training reads: resident in memory, indexed by permutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from feature_repo.errors import TrainingError
from feature_repo.inputs import Array, input_columns, model_inputs
from feature_repo.tables import Table, read_table
from serving.preprocess import Preprocessor
from tasks.training.ranks import device

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Rows of one split, resident in memory: [n, d], [n, k] and [n] tensors."""

    numeric: torch.Tensor
    categorical: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Both parts, their fitted preprocessing, and (mean, deviation) of a regression's target."""

    preprocessor: Preprocessor
    training: Part
    validation: Part
    scale: tuple[float, float]


def rows_of(table: Table, split: str) -> pa.Table:
    """One split's labelled rows, in the order in which a training numbers them."""
    import pyarrow.compute as pc

    rows = read_table(table)
    return rows.filter(pc.and_(pc.equal(rows["split"], split), pc.is_valid(rows["label"])))


def columns_of(use_case: UseCase, table: Table, split: str) -> tuple[dict[str, Array], Array]:
    """Columns (as ``model_inputs`` reads them) and labels [n] of one split's labelled rows."""
    rows = rows_of(table, split)
    columns = {}
    for name in ("tick", *(f.name for f in use_case.fields), *(s.name for s in use_case.features)):
        values = rows[name].to_numpy(zero_copy_only=False)
        columns[name] = values.astype("datetime64[s]") if values.dtype.kind == "M" else values
    return columns, rows["label"].to_numpy().astype(np.float64)


def read_parts(use_case: UseCase, table: Table, dtype: torch.dtype = torch.float32) -> Parts:
    """Read both splits; ``dtype`` is that of numbers and targets.

    Raises:
        TrainingError: a split without labelled rows.
    """
    columns, labels = columns_of(use_case, table, "training")
    late_columns, late_labels = columns_of(use_case, table, "validation")
    for name, rows in (("training", labels), ("validation", late_labels)):
        if not len(rows):
            raise TrainingError(
                f"{use_case.name}: split {name!r} has no labelled row; widen the split dates"
            )
    inputs = model_inputs(use_case, columns)
    preprocessor = Preprocessor.fit(input_columns(use_case), inputs)
    regression = use_case.task == "regression"
    scale = (float(labels.mean()), float(labels.std()) or 1.0) if regression else (0.0, 1.0)

    def part(values: dict[str, Array], target: Array) -> Part:
        numeric, categorical = preprocessor.transform(values)
        scaled = (target - scale[0]) / scale[1]
        return Part(
            numeric=torch.from_numpy(numeric).to(device(), dtype),
            categorical=torch.from_numpy(categorical).to(device()),
            target=torch.from_numpy(scaled).to(device(), dtype),
        )

    return Parts(
        preprocessor=preprocessor,
        training=part(inputs, labels),
        validation=part(model_inputs(use_case, late_columns), late_labels),
        scale=scale,
    )
