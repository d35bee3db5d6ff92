"""From a request and its stored features to model inputs: one code, offline and online."""

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


class InputMaker:
    """Makes the inputs of one use case. ``columns`` hold the request's fields, n values each:
    strings (object), float64, instants ``datetime64[s]`` in UTC."""

    def __init__(self, use_case: UseCase) -> None:
        self.names = input_columns(use_case)
        self._features = [spec.name for spec in use_case.features]
        self._requested = [n for n in self.names.numeric if n not in set(self._features)]
        self._derived = {d.name: d.function for d in use_case.derived}
        specs = use_case.features
        # An age is (tick - instant) / 60, another feature (0 + value) / 1: one formula for all.
        self._of_tick = np.array([float(s.as_age) for s in specs])
        self._sign = np.array([-1.0 if s.as_age else 1.0 for s in specs])
        self._unit = np.array([60.0 if s.as_age else 1.0 for s in specs])
        self._filled = np.array([s.default is not None for s in specs], dtype=bool)
        self._defaults = np.array([s.default or 0.0 for s in specs])

    def numeric(self, columns: Mapping[str, Array], stored: Array, tick: Array) -> Array:
        """float64 [n, numeric], NaN where missing.

        ``stored``: float64 [n, features] in declared order, NaN where missing; ``tick``: the
        tick's seconds since the epoch [n] or [1]. An instant becomes its age at the tick in
        minutes, a null its declared default.
        """
        start = len(self._requested)
        inputs = np.empty((len(stored), start + len(self._features)), np.float64)
        for place, name in enumerate(self._requested):
            inputs[:, place] = self._column(columns, name)
        features = inputs[:, start:]
        np.multiply(stored, self._sign, out=features)
        features += self._of_tick * tick[:, None]
        features /= self._unit
        np.copyto(features, self._defaults, where=np.isnan(features) & self._filled)
        return inputs

    def categorical(self, columns: Mapping[str, Array]) -> list[Array]:
        """The values [n] of each categorical input."""
        return [self._column(columns, name) for name in self.names.categorical]

    def _column(self, columns: Mapping[str, Array], name: str) -> Array:
        derive = self._derived.get(name)
        return columns[name] if derive is None else derive(columns)


def model_inputs(use_case: UseCase, columns: Mapping[str, Array]) -> dict[str, Array]:
    """Columns of the model's inputs, n values each: float64 (NaN: missing) or strings.

    ``columns`` holds the request's fields, the stored features (float64, NaN: missing) and
    ``tick`` (``datetime64[s]``, UTC).
    """
    maker = InputMaker(use_case)
    numeric = maker.numeric(columns, stored_columns(use_case, columns), tick_seconds(columns))
    texts = maker.categorical(columns)
    named = zip(maker.names.numeric, numeric.T, strict=True)
    return {**dict(named), **dict(zip(maker.names.categorical, texts, strict=True))}


def stored_columns(use_case: UseCase, columns: Mapping[str, Array]) -> Array:
    """Stored features as one array, float64 [n, features], in declared order."""
    stored = np.empty((len(columns["tick"]), len(use_case.features)), np.float64)
    for place, spec in enumerate(use_case.features):
        stored[:, place] = columns[spec.name]
    return stored


def tick_seconds(columns: Mapping[str, Array]) -> Array:
    """Seconds since the epoch of column ``tick``; int64 [n]."""
    return columns["tick"].astype("datetime64[s]").astype(np.int64)
