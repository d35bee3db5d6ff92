"""The figures of an evaluation: point values, intervals, slices, curves. JSON values only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_repo.contract import UseCase
from feature_repo.inputs import Array
from tasks import metrics
from tasks.rows import Rows

SLICE_ROWS = 200  # fewer rows say little, and a gate must not hang on them
CURVE_POINTS = 100
SAMPLE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Test rows and the model's predictions for them, float64 [n]."""

    rows: Rows
    model: Array


def figures_of(
    use_case: UseCase, scored: Scored, reference: Array, constant: Array
) -> dict[str, Any]:
    """Everything but the comparison with a champion."""
    target, task = scored.rows.target, use_case.task
    days = metrics.day_numbers(scored.rows.event_time)
    weights = metrics.day_weights(int(days.max()) + 1)
    resampled = metrics.measure(task, target, scored.model, days, weights)
    other = metrics.measure(task, target, reference, days, weights)
    test = with_intervals(metrics.points(task, target, scored.model), resampled)
    beside = with_intervals(metrics.points(task, target, reference), other)
    slices = _slices(use_case, scored, days, weights)
    metric = metrics.headline(task)
    report = {
        "format": "airworthy.evaluation/v1",
        "use_case": use_case.name,
        "task": task,
        "label": use_case.label,
        "unit": use_case.unit,
        "headline": metric,
        "rows": len(target),
        "days": int(days.max()) + 1,
        "test": test,
        "reference": beside,
        "constant": metrics.points(task, target, constant),
        "versus_reference": differences(test, resampled, beside, other),
        "slices": slices,
        "slice_min": _extreme(slices, metric, min),
        "slice_max": _extreme(slices, metric, max),
        "calibration": _calibration(target, scored.model),
    }
    if task == "binary":
        report["precision_recall"] = _precision_recall(target, scored.model)
    else:
        report["predictions"] = _sample(target, scored.model)
    return rounded(report)


def fallback_figures(task: str, rows: Rows, fallback: Array, constant: Array) -> dict[str, Any]:
    """The fallback's test figures, and its paired difference to the constant."""
    days = metrics.day_numbers(rows.event_time)
    weights = metrics.day_weights(int(days.max()) + 1)
    measured = metrics.measure(task, rows.target, fallback, days, weights)
    test = with_intervals(metrics.points(task, rows.target, fallback), measured)
    beside = metrics.points(task, rows.target, constant)
    other = metrics.measure(task, rows.target, constant, days, weights)
    return rounded({"test": test, "versus_constant": differences(test, measured, beside, other)})


def with_intervals(point: dict[str, float], resampled: dict[str, metrics.Floats]) -> dict[str, Any]:
    """Point values with ``ci``: metric -> [low, high], 95 %."""
    bounds = {name: metrics.interval(values) for name, values in resampled.items()}
    return {**point, "ci": {name: [b.low, b.high] for name, b in bounds.items()}}


def differences(
    one: dict[str, Any],
    one_resampled: dict[str, metrics.Floats],
    other: dict[str, Any],
    other_resampled: dict[str, metrics.Floats],
) -> dict[str, dict[str, Any]]:
    """``one`` minus ``other`` on the same rows and resamples, metric by metric."""
    result = {}
    for name in one_resampled.keys() - {"base_rate"}:
        bounds = metrics.interval(one_resampled[name] - other_resampled[name])
        result[name] = {
            "difference": one[name] - other[name],
            "low": bounds.low,
            "high": bounds.high,
            "significant": bounds.low > 0 or bounds.high < 0,
        }
    return result


def _slices(
    use_case: UseCase, scored: Scored, days: metrics.Ints, weights: metrics.Floats
) -> dict[str, dict[str, Any]]:
    """Per slice column and value: rows, the headline metric with its interval, mean of labels."""
    return {
        name: {
            value: _slice(use_case.task, scored, kept, days, weights)
            for value, kept in _parts(slice_column(scored.rows, name))
        }
        for name in use_case.slices
    }


def slice_column(rows: Rows, name: str) -> Array:
    """Values [n] of a slice column, as text; ``month`` is the event's UTC month."""
    if name == "month":
        return rows.event_time.astype("datetime64[M]").astype(str)
    return rows.columns[name].astype(str)


def _parts(values: Array) -> Iterator[tuple[str, Array]]:
    for value in np.unique(values):
        yield str(value), values == value


def _slice(
    task: str, scored: Scored, kept: Array, days: metrics.Ints, weights: metrics.Floats
) -> dict[str, Any]:
    target, score = scored.rows.target[kept], scored.model[kept]
    rows = len(target)
    if rows < SLICE_ROWS or target.min() == target.max():
        return {"rows": rows, "note": "too few rows"}
    metric = metrics.headline(task)
    resampled = metrics.measure(task, target, score, days[kept], weights, (metric,))
    bounds = metrics.interval(resampled[metric])
    return {
        "rows": rows,
        **metrics.points(task, target, score),
        "low": bounds.low,
        "high": bounds.high,
    }


def _extreme(slices: dict[str, dict[str, Any]], metric: str, pick: Any) -> dict[str, Any]:
    """The lowest (or highest) value of the headline metric per slice column, and which of its
    slices have too few rows to count (``left_out``)."""
    told = {
        name: [entry[metric] for entry in entries.values() if metric in entry]
        for name, entries in slices.items()
    }
    return {
        name: {metric: pick(values), "left_out": left_out(slices[name], metric)}
        for name, values in told.items()
        if values
    }


def left_out(entries: dict[str, Any], metric: str) -> list[str]:
    """The slices of a column that were not judged: too few rows, or rows of one class."""
    return [value for value, entry in entries.items() if metric not in entry]


def _calibration(target: Array, score: Array) -> list[dict[str, Any]]:
    """Mean score against mean target in equal-mass bins."""
    bins = metrics.mass_bins(score)
    kept = [bins == number for number in np.unique(bins)]
    return [
        {
            "mean_score": float(score[k].mean()),
            "rate": float(target[k].mean()),
            "rows": int(k.sum()),
        }
        for k in kept
    ]


def _precision_recall(target: Array, score: Array) -> list[dict[str, float]]:
    """At most ``CURVE_POINTS`` points of the curve, by falling threshold."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(target[order])
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS).astype(int))]
    total = max(float(hits[-1]), 1.0)
    return [
        {
            "threshold": float(score[order][at]),
            "precision": float(hits[at] / (at + 1)),
            "recall": float(hits[at] / total),
        }
        for at in chosen
    ]


def _sample(target: Array, score: Array) -> list[dict[str, float]]:
    """Evenly spaced rows, for the picture of predicted against actual values."""
    chosen = np.unique(np.linspace(0, len(target) - 1, SAMPLE).astype(int))
    return [{"actual": float(target[i]), "predicted": float(score[i])} for i in chosen]


def rounded(report: dict[str, Any]) -> dict[str, Any]:
    """Ten decimals (sums may differ in the last bits between machines); NaN becomes null."""
    return {key: _rounded(entry) for key, entry in report.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return rounded(value)
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 10) if math.isfinite(value) else None
    return value
