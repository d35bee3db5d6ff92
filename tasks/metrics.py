"""Metrics with intervals that respect days: flights of one day share its weather and its queues.

The bootstrap resamples whole days with replacement (the cluster bootstrap: Cameron, Gelbach and
Miller, "Bootstrap-based improvements for inference with clustered errors", 2008; percentile
intervals: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13). A resample is
a weight per day, so every metric is a weighted one: no row is copied, and two models compared on
the same resamples are compared in pairs.

Arrays: ``target`` and ``score`` float64 [n], ``days`` int64 [n] in 0..D-1, ``weights``
float64 [B, D], one row a resample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 300
SEED = 20131101
BINS = 15
_HOUR = 3600
_FLOOR = 1e-7  # a probability of 0 or 1 in float32 must not cost an infinite log-loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95 % percentile interval."""

    low: float
    high: float


def day_numbers(instants: npt.NDArray[np.datetime64]) -> Ints:
    """Day of each instant, 0..D-1 in order of time; a day turns at its quietest UTC hour.

    Midnight in UTC is a busy evening in New York: cutting there would split one bad evening
    into two "independent" days.
    """
    seconds = instants.astype("datetime64[s]").astype(np.int64)
    quietest = int(np.bincount(seconds // _HOUR % 24, minlength=24).argmin())
    shifted = (seconds - quietest * _HOUR) // (24 * _HOUR)
    return np.unique(shifted, return_inverse=True)[1].astype(np.int64)


def day_weights(days: int, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """How often each day is drawn in each resample: float64 [resamples, days]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(days, np.full(days, 1 / days), size=resamples).astype(np.float64)


def measure(
    task: str,
    target: Floats,
    score: Floats,
    days: Ints,
    weights: Floats,
    names: tuple[str, ...] = (),
) -> dict[str, Floats]:
    """Metrics of the task under each row of day weights: float64 [B] by name.

    ``names`` picks some of them; all when it is empty.
    """
    metrics = _binary if task == "binary" else _regression
    table = metrics(target, score, days, weights)
    return {name: compute() for name, compute in table.items() if not names or name in names}


def points(task: str, target: Floats, score: Floats) -> dict[str, float]:
    """Every metric of the task, each row counted once."""
    once = np.zeros(len(target), np.int64)
    measured = measure(task, target, score, once, np.ones((1, 1)))
    return {name: float(values[0]) for name, values in measured.items()}


def interval(values: Floats) -> Interval:
    """95 % percentile interval of resampled values [B]; NaN when none is defined."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(low=float("nan"), high=float("nan"))
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(low=float(low), high=float(high))


def headline(task: str) -> str:
    """The metric that slices and comparisons are told in."""
    return "auc" if task == "binary" else "rmse"


def per_day(values: Floats, days: Ints, count: int) -> Floats:
    """Sums of ``values`` by day: float64 [count]."""
    return np.bincount(days, values, count).astype(np.float64)


def _binary(
    target: Floats, score: Floats, days: Ints, weights: Floats
) -> dict[str, Callable[[], Floats]]:
    count = weights.shape[1]
    clipped = np.clip(score, _FLOOR, 1 - _FLOOR)
    loss = -(target * np.log(clipped) + (1 - target) * np.log1p(-clipped))

    def mean(values: Floats) -> Floats:
        return _mean(values, days, weights)

    return {
        "auc": lambda: _auc(target, score, days, weights),
        "average_precision": lambda: _average_precision(target, score, days, weights),
        "base_rate": lambda: mean(target),
        "brier": lambda: mean((score - target) ** 2),
        "ece": lambda: _ratio(
            _calibration_gap(target, score, days, weights),
            weights @ per_day(np.ones_like(target), days, count),
        ),
        "log_loss": lambda: mean(loss),
    }


def _regression(
    target: Floats, score: Floats, days: Ints, weights: Floats
) -> dict[str, Callable[[], Floats]]:
    centred = target - target.mean()  # else the two sums of the variance cancel badly

    def mean(values: Floats) -> Floats:
        return _mean(values, days, weights)

    def r2() -> Floats:
        variance = mean(centred**2) - mean(centred) ** 2
        return 1 - _ratio(mean((score - target) ** 2), np.where(variance > 0, variance, 0))

    return {
        "mae": lambda: mean(np.abs(score - target)),
        "r2": r2,
        "rmse": lambda: np.sqrt(mean((score - target) ** 2)),
    }


def _mean(values: Floats, days: Ints, weights: Floats) -> Floats:
    """Mean of ``values`` in each resample: float64 [B]."""
    count = weights.shape[1]
    rows = weights @ per_day(np.ones_like(values), days, count)
    return _ratio(weights @ per_day(values, days, count), rows)


def _ratio(over: Floats, under: Floats) -> Floats:
    ratio: Floats = np.divide(over, under, out=np.full(len(over), np.nan), where=under != 0)
    return ratio


def _auc(target: Floats, score: Floats, days: Ints, weights: Floats) -> Floats:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order
    (Mann-Whitney; ties count half).

    Pairs are counted once by (day of the positive, day of the negative); a resample weighs each
    count with both days' multiplicities, so hundreds of them cost one product of matrices.
    """
    count = weights.shape[1]
    positive = target > 0.5
    ones: Floats = positive.astype(np.float64)
    order = np.argsort(score[positive])
    ahead, day = score[positive][order], days[positive][order]
    wins = np.zeros((count, count))
    for other in np.unique(days[~positive]):
        behind = np.sort(score[~positive & (days == other)])
        below = np.searchsorted(behind, ahead, "left") + np.searchsorted(behind, ahead, "right")
        wins[:, other] = np.bincount(day, below / 2, count)
    positives = weights @ per_day(ones, days, count)
    negatives = weights @ per_day(1.0 - ones, days, count)
    return _ratio(((weights @ wins) * weights).sum(axis=1), positives * negatives)


def _average_precision(target: Floats, score: Floats, days: Ints, weights: Floats) -> Floats:
    """Mean over the positives of the precision at their score; equal scores are one step."""
    order = np.argsort(-score, kind="stable")
    day, falling = days[order], -score[order]
    places = np.flatnonzero(target[order] > 0.5)
    last_row = np.searchsorted(falling, falling[places], "right") - 1  # its step's last row
    last_hit = np.searchsorted(falling[places], falling[places], "right") - 1
    day_of_hit = day[places]
    result = np.full(len(weights), np.nan)
    for index, by_day in enumerate(weights):
        drawn = by_day[day_of_hit]
        hits = np.cumsum(drawn)
        if len(hits) and hits[-1]:
            rows = np.cumsum(by_day[day])[last_row]
            # A positive that was not drawn weighs nothing; its step may be empty.
            precision = hits[last_hit] / np.maximum(rows, 1.0)
            result[index] = drawn @ precision / hits[-1]
    return result


def mass_bins(score: Floats, bins: int = BINS) -> Ints:
    """Bin of each row, 0..bins-1, with about equally many rows in each; ties stay together."""
    edges = np.quantile(score, np.arange(1, bins) / bins)
    return np.searchsorted(edges, score, side="left").astype(np.int64)


def _calibration_gap(target: Floats, score: Floats, days: Ints, weights: Floats) -> Floats:
    """Sum over equal-mass bins of |sum of scores - sum of targets|: ECE times the rows.

    Expected calibration error with equal-mass bins: Nixon et al., "Measuring calibration in
    deep learning", 2019. The bins are those of the full sample in every resample.
    """
    count = weights.shape[1]
    cell = mass_bins(score) * count + days
    gaps = np.bincount(cell, score - target, BINS * count).reshape(BINS, count)
    total: Floats = np.abs(weights @ gaps.T).sum(axis=1)
    return total
