"""Model inputs to the arrays that the network reads: fitted once, stored with the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from feature_repo.contract import InputShape
from feature_repo.inputs import Array, Inputs

UNKNOWN = 0  # category code of a value that the training part never held
QUANTILES = 101
TAIL = 1e-3  # the outermost quantiles map to the normal's 0.1 % and 99.9 % points


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessor:
    """Maps numeric inputs to a normal's quantiles and codes categorical ones.

    ``knots`` and ``levels`` are, for each numeric input, the training part's quantiles and the
    standardised normal scores they map to; between them the map is linear, beyond them constant
    (Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", 2021, section 4). A
    missing value maps to 0; an input that was ever missing there (``indicators``) gets a 0/1
    column that says so.
    """

    numeric: tuple[str, ...]
    knots: tuple[tuple[float, ...], ...]
    levels: tuple[tuple[float, ...], ...]
    indicators: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, names: Inputs, inputs: Mapping[str, Array]) -> Preprocessor:
        """Fit on the training part; ``inputs`` as of ``feature_repo.inputs.model_inputs``."""
        fitted = [_quantiles(inputs[name].astype(np.float64)) for name in names.numeric]
        missing = [name for name in names.numeric if np.isnan(inputs[name].astype(float)).any()]
        categories = {
            name: tuple(sorted(set(inputs[name].astype(str).tolist())))
            for name in names.categorical
        }
        return cls(
            numeric=names.numeric,
            knots=tuple(knots for knots, _ in fitted),
            levels=tuple(levels for _, levels in fitted),
            indicators=tuple(missing),
            categories=categories,
        )

    @property
    def shape(self) -> InputShape:
        """What a network must be built for; code 0 of each category is the unknown."""
        return InputShape(
            numeric=len(self.numeric) + len(self.indicators),
            cardinalities=tuple(len(values) + 1 for values in self.categories.values()),
        )

    def transform(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """float32 [n, numeric + indicators] and int64 [n, categorical]."""
        values = np.stack([inputs[name].astype(np.float64) for name in self.numeric], axis=1)
        missing = np.isnan(values)
        scores = np.zeros(values.shape)
        for column, (knots, levels) in enumerate(zip(self.knots, self.levels, strict=True)):
            scores[:, column] = np.interp(values[:, column], knots, levels)
        scores[missing] = 0.0
        flagged = [self.numeric.index(name) for name in self.indicators]
        numeric = np.concatenate([scores, missing[:, flagged]], axis=1).astype(np.float32)
        codes = [self._codes(name, inputs[name]) for name in self.categories]
        rows = len(values)
        categorical = np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64)
        return numeric, categorical

    def _codes(self, name: str, values: Array) -> Array:
        known = np.asarray(self.categories[name])
        text = values.astype(str)
        position = np.minimum(np.searchsorted(known, text), len(known) - 1)
        return np.where(known[position] == text, position + 1, UNKNOWN).astype(np.int64)

    def to_json(self) -> str:
        """The fitted values as a JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessor:
        """What ``to_json`` wrote."""
        raw = json.loads(text)
        return cls(
            numeric=tuple(raw["numeric"]),
            knots=tuple(map(tuple, raw["knots"])),
            levels=tuple(map(tuple, raw["levels"])),
            indicators=tuple(raw["indicators"]),
            categories={k: tuple(v) for k, v in raw["categories"].items()},
        )


def _quantiles(values: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distinct quantiles of the values present, and their normal scores with mean 0, variance 1.

    A value that holds several quantiles gets their mean score. No value at all: one knot.
    """
    present = values[~np.isnan(values)]
    if not present.size:
        return (0.0,), (0.0,)
    shares = np.linspace(0.0, 1.0, QUANTILES)
    normal = [NormalDist().inv_cdf(min(max(share, TAIL), 1.0 - TAIL)) for share in shares]
    knots, group = np.unique(np.quantile(present, shares), return_inverse=True)
    levels = np.bincount(group, weights=normal) / np.bincount(group)
    scores = np.interp(present, knots, levels)
    levels = (levels - scores.mean()) / (float(scores.std()) or 1.0)
    return tuple(knots.tolist()), tuple(levels.tolist())
