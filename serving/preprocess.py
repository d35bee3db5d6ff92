"""Model inputs to the arrays that the network reads: fitted once, stored with the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from feature_repo.contract import InputShape
from feature_repo.inputs import Array, Inputs

UNKNOWN = 0  # category code of a value that the training part never held
CLIP = 6.0  # standard deviations; an outlier must not drive a network out of its range


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessor:
    """Standardises numeric inputs and codes categorical ones, as fitted on the training part.

    A numeric input that was ever missing there (``indicators``) gets a 0/1 column that says so.
    """

    numeric: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    indicators: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, names: Inputs, inputs: Mapping[str, Array]) -> Preprocessor:
        """Fit on the training part; ``inputs`` as of ``feature_repo.inputs.model_inputs``.

        An input that is missing in every row gets mean 0 and scale 1.
        """
        mean, scale, indicators = [], [], []
        for name in names.numeric:
            values = inputs[name].astype(np.float64)
            present = values[~np.isnan(values)]
            deviation = float(present.std()) if present.size else 0.0
            mean.append(float(present.mean()) if present.size else 0.0)
            scale.append(deviation if deviation > 1e-9 else 1.0)
            if present.size < values.size:
                indicators.append(name)
        categories = {
            name: tuple(sorted(set(inputs[name].astype(str).tolist())))
            for name in names.categorical
        }
        return cls(
            numeric=names.numeric,
            mean=tuple(mean),
            scale=tuple(scale),
            indicators=tuple(indicators),
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
        scaled = (values - np.asarray(self.mean)) / np.asarray(self.scale)
        scaled = np.clip(np.where(missing, 0.0, scaled), -CLIP, CLIP)
        flagged = [self.numeric.index(name) for name in self.indicators]
        numeric = np.concatenate([scaled, missing[:, flagged]], axis=1).astype(np.float32)
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
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Preprocessor:
        """What ``to_json`` wrote."""
        raw = json.loads(text)
        return cls(
            numeric=tuple(raw["numeric"]),
            mean=tuple(raw["mean"]),
            scale=tuple(raw["scale"]),
            indicators=tuple(raw["indicators"]),
            categories={k: tuple(v) for k, v in raw["categories"].items()},
        )
