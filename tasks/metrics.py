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
    task: str, target: Floats, score: Floats, days: Ints, weights: Floats
) -> dict[str, Floats]:
    """Every metric of the task under each row of day weights: float64 [B] by metric name."""
    metrics = _binary if task == "binary" else _regression
    return metrics(target, score, days, weights)


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


def _binary(target: Floats, score: Floats, days: Ints, weights: Floats) -> dict[str, Floats]:
    count = weights.shape[1]
    clipped = np.clip(score, _FLOOR, 1 - _FLOOR)
    loss = -(target * np.log(clipped) + (1 - target) * np.log1p(-clipped))
    rows = weights @ per_day(np.ones_like(target), days, count)
    auc, precision = _ranked(target, score, days, weights)
    return {
        "auc": auc,
        "average_precision": precision,
        "base_rate": _ratio(weights @ per_day(target, days, count), rows),
        "brier": _ratio(weights @ per_day((score - target) ** 2, days, count), rows),
        "ece": _ratio(_calibration_gap(target, score, days, weights), rows),
        "log_loss": _ratio(weights @ per_day(loss, days, count), rows),
    }


def _regression(target: Floats, score: Floats, days: Ints, weights: Floats) -> dict[str, Floats]:
    count = weights.shape[1]
    centred = target - target.mean()  # else the two sums below cancel badly
    rows = weights @ per_day(np.ones_like(target), days, count)
    squared = weights @ per_day((score - target) ** 2, days, count)
    mean = _ratio(weights @ per_day(centred, days, count), rows)
    total = weights @ per_day(centred**2, days, count) - rows * mean**2
    return {
        "mae": _ratio(weights @ per_day(np.abs(score - target), days, count), rows),
        "r2": 1 - _ratio(squared, np.where(total > 0, total, 0)),
        "rmse": np.sqrt(_ratio(squared, rows)),
    }


def _ratio(over: Floats, under: Floats) -> Floats:
    ratio: Floats = np.divide(over, under, out=np.full(len(over), np.nan), where=under != 0)
    return ratio


def _ranked(target: Floats, score: Floats, days: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """AUC (Mann-Whitney, ties count half) and average precision, from one sort.

    Rows of equal score form one step of the curve: their sums are differences of a cumulative
    sum at the steps' ends.
    """
    order = np.argsort(-score, kind="stable")
    positive, day = target[order] > 0.5, days[order]
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    auc, precision = np.empty(len(weights)), np.empty(len(weights))
    for index, by_day in enumerate(weights):
        drawn = by_day[day]
        both = np.cumsum(drawn)[ends]
        hits = np.cumsum(drawn * positive)[ends]
        gained = np.diff(hits, prepend=0.0)
        misses = both - hits
        pairs = hits[-1] * misses[-1]
        # A positive beats the negatives below it, and half of those at its own score.
        lost = gained @ (misses - np.diff(misses, prepend=0.0) / 2)
        auc[index] = 1 - lost / pairs if pairs else np.nan
        share = np.divide(hits, both, out=np.zeros_like(hits), where=both > 0)
        precision[index] = gained @ share / hits[-1] if hits[-1] else np.nan
    return auc, precision


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
