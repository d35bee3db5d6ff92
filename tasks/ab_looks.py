"""Planned looks with O'Brien-Fleming spending, and the power of each way to look.

Spending: Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 1983;
boundaries by recursive integration: Armitage, McPherson and Rowe, "Repeated significance tests on
accumulating data", JRSS A 1969; repeated intervals: Jennison and Turnbull, "Interim analyses:
the repeated confidence interval approach", JRSS B 1989.

A look has an information fraction t in (0, 1]: units so far over planned units. With S the sum
that has variance t, look k's z is S / sqrt(t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from serving.sequential import asymptotic_factor

Floats = npt.NDArray[np.float64]

_POINTS = 401  # of the integration, in each look's continuation region
_HALVINGS = 50
_FARTHEST = 10.0  # no boundary lies beyond
_NOTHING = 1e-12  # a share of alpha that is not worth a boundary


def spent(fraction: float, alpha: float) -> float:
    """Error that may be spent by an information fraction: on each side, of its alpha / 2, as much
    as 2 - 2 Phi(z / sqrt(t)) with z the normal's upper alpha / 4 point."""
    from scipy.special import ndtr, ndtri

    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(min(fraction, 1))))  # exact to 1e-300


def boundaries(fractions: Sequence[float], alpha: float, last: bool = False) -> list[float]:
    """|z| that each look must reach, the looks so far having these fractions (rising).

    ``last``: the last of them is the experiment's end and spends all that is left, whatever the
    planned units were. A look that may spend nothing yet has an infinite boundary.
    """
    density, found = _Density(fractions, drift=0.0), []
    used = 0.0
    for number, fraction in enumerate(fractions):
        ends = last and number == len(fractions) - 1
        share = (alpha if ends else spent(fraction, alpha)) - used
        z = math.inf
        if share > _NOTHING * alpha:
            # The function is called at once, with this round's density and share
            z = _halve(lambda b: density.crossing(b) > share, 0.0, _FARTHEST)  # noqa: B023 - at once
        used += density.crossing(z)
        found.append(z)
        density.go_on(z)
    return found


def crossing(fractions: Sequence[float], bounds: Sequence[float], drift: float) -> float:
    """Probability that |z| reaches a boundary at some look, when z at t = 1 has mean ``drift``."""
    density, total = _Density(fractions, drift), 0.0
    for bound in bounds:
        total += density.crossing(bound)
        density.go_on(bound)
    return total


class _Density:
    """The density of S at the last look, where no boundary was reached so far."""

    def __init__(self, fractions: Sequence[float], drift: float) -> None:
        self._fractions, self._drift, self._at = list(fractions), drift, 0
        self._points, self._mass = np.zeros(1), np.ones(1)  # S = 0 at t = 0

    def _step(self) -> tuple[float, float, float]:
        """Fraction of the next look, and the root and the drift of what is added until then."""
        now = self._fractions[self._at]
        before = self._fractions[self._at - 1] if self._at else 0.0
        return now, math.sqrt(max(now - before, 1e-12)), self._drift * (now - before)

    def crossing(self, z: float) -> float:
        """Probability of reaching |z| at the next look, and not before."""
        from scipy.special import ndtr

        now, root, shift = self._step()
        limit = z * math.sqrt(now)
        above = ndtr((self._points + shift - limit) / root)
        below = ndtr((-limit - self._points - shift) / root)
        return float(self._mass @ (above + below))

    def go_on(self, z: float) -> None:
        """Take the next look without reaching |z|."""
        now, root, shift = self._step()
        limit = min(z, 8 + abs(self._drift)) * math.sqrt(now)  # no mass lies beyond
        points = np.linspace(-limit, limit, _POINTS)
        weight = np.full(_POINTS, points[1] - points[0])
        weight[[0, -1]] /= 2
        steps = (points[:, None] - self._points[None, :] - shift) / root
        kernel = np.exp(-(steps**2) / 2) / (root * math.sqrt(2 * math.pi))
        self._points, self._mass = points, (kernel @ self._mass) * weight
        self._at += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """Units of all arms that a way to look needs."""

    way: str
    units: int


def units_needed(
    variance: float,
    mde: float,
    weights: tuple[float, float],
    alpha: float,
    power: float,
    looks: int,
) -> list[Needed]:
    """Units (both arms) to find a difference of ``mde`` with the power that is asked for.

    Args:
        variance: of one unit's outcome, linearised for a ratio.
        mde: the difference, in the metric's unit.
        weights: shares of control and treatment among all units.
        alpha: two-sided level.
        power: for example 0.8.
        looks: planned looks; below 2 there is no row for them.
    """
    normal = NormalDist()
    spread = variance * (1 / weights[0] + 1 / weights[1]) / mde**2
    drift = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)
    found = [Needed(way="one look at the end", units=math.ceil(drift**2 * spread))]
    if looks > 1:
        fractions = [k / looks for k in range(1, looks + 1)]
        bounds = boundaries(fractions, alpha, last=True)
        drift = _halve(lambda d: crossing(fractions, bounds, d) < power, 0.0, 2 * drift)
        way = f"{looks} planned looks (O'Brien-Fleming), at most"
        found.append(Needed(way=way, units=math.ceil(drift**2 * spread)))
    factor = float(asymptotic_factor(1, 1, alpha))  # of N units, tuned for N: whatever N is
    drift = factor + normal.inv_cdf(power)
    found.append(Needed(way="any-time interval, at most", units=math.ceil(drift**2 * spread)))
    return found


def _halve(goes_up: Callable[[float], bool], low: float, high: float) -> float:
    """The point up to which ``goes_up`` holds."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if goes_up(middle):
            low = middle
        else:
            high = middle
    return high
