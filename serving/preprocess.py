"""Model inputs to the arrays that the network reads: fitted once, stored with the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from feature_repo.inputs import Array, Inputs
from feature_repo.model import InputShape

UNKNOWN = 0  # category code of a value that the training part never held; others are not 0
QUANTILES = 101
TAIL = 1e-3  # the outermost quantiles map to the normal's 0.1 % and 99.9 % points
_FEW = 4  # rows up to which comparing with every knot is cheaper than with some of them first
_BLOCK = 11  # knots that are compared with last: about the root of their number
_ROWS = 256  # rows at a time, so that what is compared stays in the cache


@dataclass(frozen=True, kw_only=True)
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
            indicators=len(self.indicators),
        )

    def transform(self, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """float32 [n, numeric + indicators] and int64 [n, categorical]."""
        values = np.stack([inputs[name].astype(np.float64) for name in self.numeric], axis=1)
        texts = [map(str, inputs[name].tolist()) for name in self.categories]
        return self.scores(values), self.codes(texts, len(values))

    def scores(self, values: Array) -> Array:
        """float32 [n, numeric + indicators] from float64 [n, numeric], NaN where missing."""
        table = self._table
        missing = np.isnan(values)
        places = table.places(values)
        places += table.starts
        scores = table.slopes.take(places)
        scores *= values - table.knots.take(places)
        scores += table.levels.take(places)
        scores[missing] = 0.0
        arrays = (scores, missing.take(self._flagged, axis=1))
        return np.concatenate(arrays, axis=1, dtype=np.float32)

    def codes(self, texts: Sequence[Iterable[str]], rows: int) -> Array:
        """int64 [rows, categorical] from the values of each categorical input."""
        codes = np.empty((rows, len(self.categories)), np.int64)
        for place, (code, values) in enumerate(zip(self._codes, texts, strict=True)):
            codes[:, place] = [code.get(value, UNKNOWN) for value in values]
        return codes

    @cached_property
    def _table(self) -> _Table:
        return _Table(self.knots, self.levels)

    @cached_property
    def _flagged(self) -> Array:
        return np.array([self.numeric.index(name) for name in self.indicators], dtype=np.int64)

    @cached_property
    def _codes(self) -> list[dict[str, int]]:
        return [
            {value: code for code, value in enumerate(values, UNKNOWN + 1)}
            for values in self.categories.values()
        ]

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


class _Table:
    """The piecewise linear maps of all columns, one segment an entry, for a few numpy calls.

    Segment 0 of a column lies below its first knot, segment k above the k-th one; the outermost
    are constant. ``starts`` [columns] are the columns' first entries.
    """

    def __init__(self, knots: Sequence[Sequence[float]], levels: Sequence[Sequence[float]]) -> None:
        blocks = max((len(column) for column in knots), default=0) // _BLOCK + 1
        shape = (len(knots), blocks * _BLOCK)
        # One NaN at least ends each column: no value is at or above it.
        self._padded = np.full(shape, np.nan)
        self.starts = np.arange(len(knots)) * shape[1]
        at, level, slope = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for c, (x, y) in enumerate(zip(map(np.array, knots), map(np.array, levels), strict=True)):
            k = len(x)
            self._padded[c, :k] = x
            at[c, 0], at[c, 1 : k + 1] = x[0], x
            level[c, 0], level[c, 1 : k + 1] = y[0], y
            slope[c, 1:k] = np.diff(y) / np.diff(x)
        self.knots, self.levels, self.slopes = at.ravel(), level.ravel(), slope.ravel()
        self._lasts = np.ascontiguousarray(self._padded[:, _BLOCK - 1 :: _BLOCK])
        self._blocks = self._padded.reshape(-1, _BLOCK)
        self._first_blocks = np.arange(len(knots)) * blocks

    def places(self, values: Array) -> Array:
        """Segment of each value: how many knots of its column are not above it; int64 [n, c]."""
        if len(values) <= _FEW:
            below: Array = (self._padded <= values[:, :, None]).argmin(axis=2)
            return below
        parts = [self._in_blocks(values[i : i + _ROWS]) for i in range(0, len(values), _ROWS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _in_blocks(self, values: Array) -> Array:
        """The first block of knots whose last one is above the value, then the place in it."""
        blocks = (self._lasts <= values[:, :, None]).argmin(axis=2)
        knots = self._blocks.take(blocks + self._first_blocks, axis=0)
        places: Array = (knots <= values[:, :, None]).argmin(axis=2)
        places += blocks * _BLOCK
        return places


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
