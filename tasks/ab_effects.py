"""Effects of a treatment on means and ratios, with and without CUPED, at any number of prefixes.

One estimator serves all: the numerator's sum over the denominator's in each arm (a mean has the
denominator 1), less theta times the same ratio of the covariates. Variances are the delta
method's (Deng, Knoblich and Lu, "Applying the delta method in metric analytics", KDD 2018), theta
the regression coefficient of the units' linearised outcomes on their linearised covariates in
both arms together (CUPED: Deng, Xu, Kohavi and Walker, "Improving the sensitivity of online
controlled experiments", WSDM 2013). tea-tasting has the same estimator for one table; this one
takes every prefix of the units at once, as a sequence of looks needs it.

Arrays: ``values`` float64 [..., n, 4], columns numerator, denominator, covariate, covariate's
denominator (1 and 0, 1 where a metric has none); ``treated`` bool [..., n]; units in the order
of their exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Effects(NamedTuple):
    """At each prefix, float64 [..., K]: treatment less control, its standard error (NaN below two
    units an arm), the control's ratio, both as observed, and the units of each arm."""

    effect: Floats
    error: Floats
    control: Floats
    treatment: Floats
    control_units: Floats
    treatment_units: Floats


@dataclass(frozen=True, slots=True)
class _Moments:
    """Count [..., K], means [..., K, 4] and covariances [..., K, 4, 4] of the units so far."""

    count: Floats
    mean: Floats
    covariance: Floats


def effects(values: Floats, treated: Bools, prefixes: Ints) -> Effects:
    """Effect and error over the first ``prefixes`` (int64 [K], rising, from 1) units."""
    # About a point near the means the sums of squares lose no digits.
    centre = values.mean(axis=-2, keepdims=True)
    arms = [_sums(values - centre, mask, prefixes) for mask in (~treated, treated)]
    control, treatment = (_moments(*sums, centre) for sums in arms)
    (n, total, squares), (m, added, more) = arms
    together = _moments(n + m, total + added, squares + more, centre)
    with np.errstate(invalid="ignore", divide="ignore"):
        _, covariance, spread, _ = _linear(together)
        theta = np.where(spread > 0, covariance / spread, 0.0)
        ours, theirs = _arm(treatment, theta), _arm(control, theta)
    return Effects(
        effect=ours[0] - theirs[0],
        error=np.sqrt(ours[1] + theirs[1]),
        control=control.mean[..., 0] / control.mean[..., 1],
        treatment=treatment.mean[..., 0] / treatment.mean[..., 1],
        control_units=control.count,
        treatment_units=treatment.count,
    )


def unit_variance(values: Floats) -> tuple[float, float]:
    """Variance of a unit's linearised outcome over one group, without and with its covariate:
    a mean of n units has this over n."""
    every = np.array([values.shape[-2]])
    centre = values.mean(axis=-2, keepdims=True)
    whole = np.ones(values.shape[:-1], bool)
    plain, covariance, spread, _ = _linear(_moments(*_sums(values - centre, whole, every), centre))
    saved = covariance**2 / spread if spread[0] > 0 else 0.0
    return float(plain[0]), float(np.ravel(plain - saved)[0])


def _sums(values: Floats, mask: Bools, prefixes: Ints) -> tuple[Floats, Floats, Floats]:
    """Counts, sums and sums of products of the masked units in each prefix."""
    chosen = values * mask[..., None]
    products = chosen[..., :, None] * values[..., None, :]
    starts = np.concatenate([[0], prefixes[:-1]])

    def upto(array: Floats, axis: int) -> Floats:
        kept = np.take(array, np.arange(prefixes[-1]), axis=axis)
        total: Floats = np.add.reduceat(kept, starts, axis=axis).cumsum(axis=axis)
        return total

    return upto(mask.astype(np.float64), -1), upto(chosen, -2), upto(products, -3)


def _moments(count: Floats, sums: Floats, products: Floats, centre: Floats) -> _Moments:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / count[..., None]
        outer = mean[..., :, None] * mean[..., None, :]
        n = count[..., None, None]
        covariance = (products - n * outer) / np.where(n > 1, n - 1, np.nan)
    return _Moments(count, mean + centre, covariance)


def _linear(m: _Moments) -> tuple[Floats, Floats, Floats, Floats]:
    """Variance of the outcome, covariance with the covariate, variance of the covariate, all of
    the units' linearised ratios; and the covariate's ratio."""
    slopes = []
    for numerator, denominator in ((0, 1), (2, 3)):
        ratio = m.mean[..., numerator] / m.mean[..., denominator]
        slope = np.zeros_like(m.mean)
        slope[..., numerator] = 1 / m.mean[..., denominator]
        slope[..., denominator] = -ratio / m.mean[..., denominator]
        slopes.append(slope)
    outcome, covariate = slopes

    def form(a: Floats, b: Floats) -> Floats:
        product: Floats = np.einsum("...i,...ij,...j->...", a, m.covariance, b)
        return product

    known = m.mean[..., 2] / m.mean[..., 3]
    return form(outcome, outcome), form(outcome, covariate), form(covariate, covariate), known


def _arm(m: _Moments, theta: Floats) -> tuple[Floats, Floats]:
    """Adjusted ratio of one arm, and its variance."""
    plain, covariance, spread, known = _linear(m)
    value = m.mean[..., 0] / m.mean[..., 1] - theta * known
    variance = plain - 2 * theta * covariance + theta**2 * spread
    return value, np.maximum(variance, 0) / m.count
