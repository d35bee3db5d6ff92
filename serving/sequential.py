"""Confidence sequences: intervals that are valid at every look at once, however often one looks.

A canary is looked at many times, and a fixed-horizon interval that is looked at 20 times is wrong
25 % of the time. Those of a confidence sequence are all right together with probability
1 - alpha, so "up, hold or back" may be decided at any of them, and an experiment may be stopped
at any. Pure functions: a state goes into JSON and goes on in another process.

- ``BoundedMean``: mean of bounded observations, valid from the first one (errors in [0, 1],
  paired differences in [-1, 1]).
- ``difference``: of two ``BoundedMean`` of independent arms.
- ``Moments``, ``asymptotic_interval``, ``asymptotic_difference``: means without bounds (scores,
  losses, latencies), valid in the limit, so with a burn-in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DeclarationError

Floats = npt.NDArray[np.float64]

CELLS = 256  # of the histogram: a power of two, so that 0, 1/2 and 1 lie on its edges
BURN_IN = 100  # observations an arm before an asymptotic interval says anything
_FRACTIONS = np.geomspace(0.95, 1e-3, 16)  # of all that a bet may risk
_HALVINGS = 48  # of [0, 1]: to 4e-15


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Both ends belong to it."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside."""
        return not self.low <= value <= self.high


NOTHING_KNOWN = Interval(low=-math.inf, high=math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundedMean:
    """What is known of the mean of observations in [low, high]; a new one knows nothing.

    Method: betting against each candidate mean, the capital spread evenly over constant bets
    (the hedged grid-Kelly sequence of Waudby-Smith and Ramdas, "Estimating means of bounded
    random variables by betting", JRSS B 2024, arXiv 2010.09686). A candidate goes when either
    side's capital reaches 2 / alpha. The logarithm of a bet's gain is concave in the observation,
    so splitting each observation linearly between the two nearest edges of a histogram can only
    lower the capital: the sequence stays valid, the state is ``histogram`` (float64 [CELLS + 1]),
    and neither the order of observations nor the size of batches matters. Indicators and paired
    differences of indicators lie on edges, where nothing is lost.

    It assumes that the observations' conditional mean does not change; where it does, an interval
    above m still says that the mean was above m at some time.

    Raises:
        DeclarationError: ``low`` is not below ``high``, or ``histogram`` is not one of this state.
    """

    low: float = 0.0
    high: float = 1.0
    count: int = 0
    histogram: tuple[float, ...] = (0.0,) * (CELLS + 1)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DeclarationError(
                f"bounds [{self.low}, {self.high}]: the lower must be below the upper, both finite"
            )
        if len(self.histogram) != CELLS + 1:
            raise DeclarationError(
                f"a histogram of {len(self.histogram)} edges where {CELLS + 1} are kept: the state "
                "is of another version; begin anew, or read it with that version"
            )
        object.__setattr__(self, "histogram", tuple(self.histogram))  # JSON knows lists only

    @property
    def mean(self) -> float:
        """Mean of the observations; NaN of none."""
        if not self.count:
            return math.nan
        edges = np.linspace(self.low, self.high, CELLS + 1)
        return float(edges @ np.asarray(self.histogram)) / self.count

    def update(self, values: Floats) -> BoundedMean:
        """The state after more observations, float64 [n], n from 0.

        Raises:
            DeclarationError: one is not a number or lies outside of the bounds.
        """
        scaled = (np.asarray(values, np.float64) - self.low) / (self.high - self.low) * CELLS
        wrong = ~((scaled >= 0) & (scaled <= CELLS))
        if wrong.any():
            raise DeclarationError(
                f"{int(wrong.sum())} observations, {np.asarray(values)[wrong][0]} first, lie "
                f"outside of the declared bounds [{self.low}, {self.high}]: declare wider ones "
                "before the first look, or clip the metric"
            )
        cell = np.minimum(scaled.astype(np.int64), CELLS - 1)
        upper = scaled - cell
        added = np.bincount(cell, 1 - upper, CELLS + 1) + np.bincount(cell + 1, upper, CELLS + 1)
        return BoundedMean(
            low=self.low,
            high=self.high,
            count=self.count + len(scaled),
            histogram=tuple((np.asarray(self.histogram) + added).tolist()),
        )

    def interval(self, alpha: float) -> Interval:
        """The interval of this look; without observations the bounds themselves."""
        counts = np.asarray(self.histogram)
        seen = counts > 0
        support, counts = np.linspace(0, 1, CELLS + 1)[seen], counts[seen]
        low = _lower_end(support, counts, alpha)
        high = 1 - _lower_end(1 - support, counts, alpha)
        width = self.high - self.low
        return Interval(low=self.low + width * low, high=self.low + width * high)


def difference(champion: BoundedMean, canary: BoundedMean, alpha: float) -> Interval:
    """Mean of the canary's observations less the champion's, the arms independent of each other.

    Each arm's sequence is held at alpha / 2 (union bound), so both are right at all looks with
    probability 1 - alpha. With a small canary its own width is nearly all of it.
    """
    ours, theirs = canary.interval(alpha / 2), champion.interval(alpha / 2)
    return Interval(low=ours.low - theirs.high, high=ours.high - theirs.low)


def log_capital(support: Floats, counts: Floats, mean: float) -> Floats:
    """Logarithm of the capital of bets that the true mean is above ``mean``.

    Args:
        support: values in [0, 1], float64 [V].
        counts: how often each was observed, float64 [..., V].
        mean: the candidate, in (0, 1).

    Returns:
        float64 [...]; where the mean is ``mean`` it exceeds log(1 / a) ever with probability a.
    """
    # A bet of a fraction of all that may be risked: 1 + f (x - mean) / mean, never negative.
    gains = np.log1p(_FRACTIONS[:, None] * (support / mean - 1))
    logs = counts @ gains.T
    most = logs.max(axis=-1, keepdims=True)
    mean_capital: Floats = np.exp(logs - most).mean(axis=-1)
    capital: Floats = np.log(mean_capital) + most[..., 0]
    return capital


def _lower_end(support: Floats, counts: Floats, alpha: float) -> float:
    """The least mean that is not excluded from below: capital falls as the candidate rises."""
    total = counts.sum()
    low, high = 0.0, float(support @ counts / total) if total else 0.0
    for _ in range(_HALVINGS if high > 0 else 0):
        middle = (low + high) / 2
        if log_capital(support, counts, middle) >= math.log(2 / alpha):
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations of observations without bounds."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, values: Floats) -> Moments:
        """The state after more observations, float64 [n] (pairwise update: Chan, Golub and
        LeVeque, "Updating formulae and a pairwise algorithm for sample variances", 1979).

        Raises:
            DeclarationError: one is not a finite number.
        """
        values = np.asarray(values, np.float64)
        if not np.isfinite(values).all():
            raise DeclarationError(
                "an observation is not a finite number: leave it out, or give the metric a value "
                "for it, in both arms alike"
            )
        if not len(values):
            return self
        count, mean = len(values), float(values.mean())
        total, shift = self.count + count, mean - self.mean
        return Moments(
            count=total,
            mean=self.mean + shift * count / total,
            squares=self.squares
            + float(((values - mean) ** 2).sum())
            + shift**2 * self.count * count / total,
        )

    @property
    def variance(self) -> float:
        """Sample variance; NaN of fewer than two observations."""
        return self.squares / (self.count - 1) if self.count > 1 else math.nan


def asymptotic_factor(count: npt.ArrayLike, tuned_for: float, alpha: float) -> Floats:
    """Standard errors on each side of a mean of ``count`` observations: a number or float64 [...],
    as ``count`` is.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", 2021 (arXiv 2103.06476), theorem 2.2: Robbins' normal
    mixture. It is narrowest near ``tuned_for`` observations (their appendix B.2), which must be
    fixed before the data are seen.
    """
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / tuned_for
    scaled = np.asarray(count, np.float64) * rho2
    factor: Floats = np.sqrt(2 * (scaled + 1) / scaled * np.log(np.sqrt(scaled + 1) / alpha))
    return factor


def asymptotic_interval(
    seen: Moments, alpha: float, tuned_for: float, burn_in: int = BURN_IN
) -> Interval:
    """The mean of observations without bounds; before the burn-in, and while they have not varied,
    nothing is known.

    Valid in the limit only: skewed observations need a longer burn-in.
    """
    if seen.count < max(burn_in, 2) or not seen.squares:
        return NOTHING_KNOWN
    error = math.sqrt(seen.variance / seen.count)
    radius = error * float(asymptotic_factor(seen.count, tuned_for, alpha))
    return Interval(low=seen.mean - radius, high=seen.mean + radius)


def asymptotic_difference(
    champion: Moments, canary: Moments, alpha: float, tuned_for: float, burn_in: int = BURN_IN
) -> Interval:
    """Mean of the canary's observations less the champion's, arms drawn at random (ibid., section
    3: a difference of means is a mean of the units' influences, whose standard error is
    Welch's); ``tuned_for`` counts both arms, ``burn_in`` each."""
    if min(champion.count, canary.count) < max(burn_in, 2):
        return NOTHING_KNOWN
    error = math.sqrt(champion.variance / champion.count + canary.variance / canary.count)
    if not error:
        return NOTHING_KNOWN
    both = champion.count + canary.count
    radius = error * float(asymptotic_factor(both, tuned_for, alpha))
    middle = canary.mean - champion.mean
    return Interval(low=middle - radius, high=middle + radius)
