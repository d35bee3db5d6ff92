"""Histograms as plain numbers, told in Prometheus' form when asked.

An ``observe`` of the client library costs as much as parsing a small request, and an answer makes
ten observations and one for each feature view.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from feature_repo.inputs import Array

AGES = (15.0, 30.0, 60.0, 120.0, 360.0, 720.0, 1440.0, 4320.0, 10_080.0, 40_320.0)


class Counts:
    """A histogram: how many values fell into each of ``bounds``'s buckets, and their sum."""

    __slots__ = ("_bounds", "_places", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = list(bounds)
        self._places = np.array(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """One value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add_all(self, values: Array) -> None:
        """Values float64 [n]; NaN is left out."""
        if len(values) == 1:
            value = float(values[0])
            if value == value:
                self.add(value)
            return
        known = values[~np.isnan(values)]
        places = np.bincount(self._places.searchsorted(known), minlength=len(self.counts))
        self.counts = [a + b for a, b in zip(self.counts, places.tolist(), strict=True)]
        self.total += float(known.sum())

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format has them."""
        sums = np.cumsum(self.counts).tolist()
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        return list(zip(names, sums, strict=True))


class Ages:
    """Histograms of the ages of each view's rows, and how many had none."""

    def __init__(self, views: int) -> None:
        self._bounds = np.array([*AGES, np.inf])
        self._starts = np.arange(views) * (len(AGES) + 2)
        self._counts = np.zeros(views * (len(AGES) + 2), np.int64)
        self._totals = np.zeros(views)

    def add(self, ages: Array) -> bool:
        """Minutes float64 [n, views], NaN where a view has no living row; whether one has none."""
        places = self._bounds.searchsorted(ages)  # NaN is behind the last one
        places += self._starts
        if len(ages) == 1:
            self._counts[places[0]] += 1
        else:
            self._counts += np.bincount(places.ravel(), minlength=len(self._counts))
        total = ages.sum(axis=0)
        lost = bool(np.isnan(total).any())
        self._totals += np.where(np.isnan(ages), 0.0, ages).sum(axis=0) if lost else total
        return lost

    def buckets(self, view: int) -> list[tuple[str, float]]:
        """Cumulative counts of a view's ages by upper bound."""
        start = int(self._starts[view])
        sums = np.cumsum(self._counts[start : start + len(AGES) + 1]).tolist()
        return list(zip([*(f"{bound:g}" for bound in AGES), "+Inf"], sums, strict=True))

    def total(self, view: int) -> float:
        """Sum of a view's ages."""
        return float(self._totals[view])

    def missing(self, view: int) -> int:
        """How many rows of a view were missing."""
        return int(self._counts[int(self._starts[view]) + len(AGES) + 1])
