"""Rows of a training set as the arrays that models, metrics and slices read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.inputs import Array

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Labelled rows of one split: ``columns`` as ``feature_repo.inputs.model_inputs`` reads
    them, ``target`` float64 [n], ``event_time`` datetime64[s] [n] in UTC."""

    columns: dict[str, Array]
    target: Array
    event_time: Array

    def __len__(self) -> int:
        return len(self.target)

    def where(self, kept: Array) -> Rows:
        """The rows that a boolean array [n] marks."""
        return Rows(
            columns={name: values[kept] for name, values in self.columns.items()},
            target=self.target[kept],
            event_time=self.event_time[kept],
        )


def labelled(table: pa.Table, split: str) -> pa.Table:
    """One split's labelled rows of a training set, as a training numbers them."""
    import pyarrow.compute as pc

    return table.filter(pc.and_(pc.equal(table["split"], split), pc.is_valid(table["label"])))


def labelled_rows(use_case: UseCase, table: pa.Table, split: str) -> Rows:
    """The labelled rows of one split of a training set."""
    return arrays_of(use_case, labelled(table, split))


def arrays_of(use_case: UseCase, table: pa.Table) -> Rows:
    """Labelled rows as arrays."""
    names = ("tick", *(f.name for f in use_case.fields), *(s.name for s in use_case.features))
    return Rows(
        columns={name: _array(table, name) for name in names},
        target=_array(table, "label").astype(np.float64),
        event_time=_array(table, "event_time"),
    )


def _array(table: pa.Table, name: str) -> Array:
    values: Array = table[name].to_numpy()
    return values.astype("datetime64[s]") if values.dtype.kind == "M" else values
