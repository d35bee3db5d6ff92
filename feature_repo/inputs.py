"""From a request and its stored features to model inputs: one function, offline and online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from feature_repo.contract import UseCase

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Names of a model's inputs, in the order of its arrays."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]


def input_columns(use_case: UseCase) -> Inputs:
    """Inputs of a use case: request fields, then derived inputs, then stored features."""
    fields = [f for f in use_case.fields if f.model_input]
    return Inputs(
        numeric=(
            *(f.name for f in fields if f.dtype == "number"),
            *(d.name for d in use_case.derived if not d.categorical),
            *(s.name for s in use_case.features),
        ),
        categorical=(
            *(f.name for f in fields if f.dtype == "string"),
            *(d.name for d in use_case.derived if d.categorical),
        ),
    )


def model_inputs(use_case: UseCase, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Columns of the model's inputs, n values each: float64 (NaN: missing) or strings.

    ``columns`` holds the request's fields, the stored features (float64, NaN: missing) and
    ``tick`` (``datetime64[s]``, UTC). Instants become their age at the tick in minutes.
    """
    inputs: dict[str, Array] = {f.name: columns[f.name] for f in use_case.fields if f.model_input}
    for derived in use_case.derived:
        inputs[derived.name] = derived.function(columns)
    tick_seconds = columns["tick"].astype("datetime64[s]").astype(np.int64)
    for spec in use_case.features:
        stored = columns[spec.name].astype(np.float64)
        value = (tick_seconds - stored) / 60.0 if spec.as_age else stored
        if spec.default is not None:
            value = np.where(np.isnan(value), spec.default, value)
        inputs[spec.name] = value
    return inputs
