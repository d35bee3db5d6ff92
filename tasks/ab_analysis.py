"""What an experiment has shown at an instant: one finding for each metric and treatment.

The verdict comes from one rule, the declared one: planned looks (O'Brien-Fleming; with one look,
a fixed horizon) or, with ``looks`` 0, the any-time interval. Each alone keeps its level; the
better of two would not. Several treatments share alpha evenly. At a peek between planned looks
only the any-time interval is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.experiment import Experiment, Metric
from serving.sequential import BURN_IN, Interval, asymptotic_factor
from tasks import ab_data, ab_looks
from tasks.ab_data import Shares, Units
from tasks.ab_effects import Bools, Effects, Floats, Ints, effects
from tasks.ab_fixed import Fixed, fixed_horizon, holm

if TYPE_CHECKING:
    import pandas as pd

POINTS = 60  # of the pictured sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A planned look that was reached: its number from 1, information fraction, z, the boundary
    of |z|, and the repeated confidence interval."""

    number: int
    at: str
    units: int
    fraction: float
    effect: float
    z: float
    boundary: float
    interval: Interval

    @property
    def crossed(self) -> bool:
        """Whether the boundary was reached."""
        return abs(self.z) >= self.boundary


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The any-time interval after the first ``units`` units."""

    units: int
    at: str
    effect: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A metric in a treatment against the control; ``alpha`` is its share of the level."""

    metric: Metric
    treatment: str
    units: int
    alpha: float
    control: float
    treated: float
    effect: float
    anytime: Interval
    path: tuple[Point, ...]
    looks: tuple[Look, ...]
    fixed: Fixed | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """An experiment at an instant; no findings where the arms may not be compared."""

    experiment: Experiment
    at: datetime
    exposed: Shares
    unanswered: Shares
    ratio_over_time: tuple[tuple[str, float], ...]
    findings: tuple[Finding, ...]

    @property
    def comparable(self) -> bool:
        """Whether conclusions may be drawn at all."""
        return self.exposed.fine and self.unanswered.fine

    @property
    def over(self) -> bool:
        """Whether the last unit's window is over."""
        return self.at >= self.experiment.end + self.experiment.window


def analyse(
    experiment: Experiment, exposures: pd.DataFrame, outcomes: pd.DataFrame, at: datetime
) -> Analysis:
    """The analysis with what was known at an instant.

    Raises:
        SourceError: the tables break their contract.
    """
    first = ab_data.first_exposures(experiment, exposures, at)
    arms = len(experiment.arms)
    exposed = ab_data.sample_ratio(experiment, np.bincount(first["arm"], minlength=arms).tolist())
    units, rows = ab_data.join(experiment, first, outcomes, at)
    primary = next(metric for metric in experiment.metrics if metric.primary)
    _, known = ab_data.metric_values(primary, units, rows)
    unanswered = ab_data.answered(
        experiment,
        np.bincount(units.arm[known], minlength=arms).tolist(),
        np.bincount(units.arm[~known], minlength=arms).tolist(),
    )
    findings: tuple[Finding, ...] = ()
    if exposed.fine and unanswered.fine:
        findings = with_holm(experiment, _findings(experiment, units, rows, at))
    return Analysis(
        experiment=experiment,
        at=at,
        exposed=exposed,
        unanswered=unanswered,
        ratio_over_time=_ratio_over_time(first, arms),
        findings=findings,
    )


def _findings(
    experiment: Experiment, units: Units, rows: pd.DataFrame, at: datetime
) -> tuple[Finding, ...]:
    found = []
    for place, arm in enumerate(experiment.arms[1:], start=1):
        for metric in experiment.metrics:
            values, known = ab_data.metric_values(metric, units, rows)
            chosen = known & np.isin(units.arm, [0, place])
            treated = units.arm[chosen] == place
            if treated.any() and not treated.all():
                when = units.exposed_at[chosen] + np.timedelta64(experiment.window)
                found.append(
                    _finding(experiment, metric, arm.name, values[chosen], treated, when, at)
                )
    return tuple(found)


def _finding(
    experiment: Experiment, metric: Metric, treatment: str,
    values: Floats, treated: Bools, when: Any, at: datetime,
) -> Finding:  # fmt: skip
    alpha = share_of_alpha(experiment, metric)
    count = len(treated)
    steps = np.unique(np.linspace(1, count, POINTS).astype(np.int64))
    along = effects(values, treated, steps)
    tuned = max(2.0, experiment.planned_units * pair_share(experiment, treatment))
    intervals = [
        Interval(low=float(e - half), high=float(e + half))
        for e, half in zip(along.effect, anytime(along, tuned, alpha), strict=True)
    ]
    told = experiment.looks > 0 and at >= experiment.look_times[-1]
    told = told and (experiment.looks == 1 or not metric.primary)
    path = tuple(
        Point(units=int(n), at=str(when[n - 1])[:19], effect=float(e), interval=i)
        for n, e, i in zip(steps, along.effect, intervals, strict=True)
        if i.high < math.inf
    )
    looks = _looks(experiment, metric, treatment, values, treated, when, at, alpha)
    return Finding(
        metric=metric,
        treatment=treatment,
        units=count,
        alpha=alpha,
        control=float(along.control[-1]),
        treated=float(along.treatment[-1]),
        effect=float(along.effect[-1]),
        anytime=intervals[-1],
        path=path,
        looks=looks,
        fixed=fixed_horizon(values, treated, experiment.each) if told else None,
    )


def with_holm(experiment: Experiment, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, with Holm's word on the secondary metrics' p-values."""
    tested = [f for f in findings if f.fixed and not f.metric.primary]
    stand = holm([f.fixed.pvalue for f in tested if f.fixed], experiment.alpha)
    for finding, stands in zip(tested, stand, strict=True):
        at = findings.index(finding)
        fixed = replace(finding.fixed, stands=stands) if finding.fixed else None
        findings = (*findings[:at], replace(finding, fixed=fixed), *findings[at + 1 :])
    return findings


def share_of_alpha(experiment: Experiment, metric: Metric) -> float:
    """The level of one comparison: treatments share alpha, and any-time secondary metrics do."""
    return experiment.each / (1 if metric.primary else len(experiment.metrics) - 1)


def pair_share(experiment: Experiment, treatment: str) -> float:
    """The share of all units that the control and this treatment have."""
    return experiment.arms[0].weight + experiment.arm(treatment).weight


def anytime(along: Effects, tuned_for: float, alpha: float) -> Floats:
    """Half the width of the confidence sequence at each prefix, float64 [..., K]
    (``serving.sequential.asymptotic_factor``); infinite in the burn-in, and while outcomes have
    not varied: that no error was seen yet proves nothing."""
    both = along.control_units + along.treatment_units
    known = (np.minimum(along.control_units, along.treatment_units) >= BURN_IN) & (along.error > 0)
    half = along.error * asymptotic_factor(both, tuned_for, alpha)
    width: Floats = np.where(known, half, np.inf)
    return width


def planned(
    along: Effects, fractions: Floats, alpha: float, last: bool
) -> tuple[Floats, list[float]]:
    """z and boundary of |z| at each planned look so far, the prefixes of ``along``."""
    bounds = ab_looks.boundaries(fractions.tolist(), alpha, last=last)
    return along.effect / along.error, bounds


def _looks(
    experiment: Experiment, metric: Metric, treatment: str,
    values: Floats, treated: Bools, when: Any, at: datetime, alpha: float,
) -> tuple[Look, ...]:  # fmt: skip
    """The planned looks that were reached, of the primary metric, each with the data of then."""
    times = [time for time in experiment.look_times if time <= at]
    if not times or not metric.primary:
        return ()
    upto = np.array([np.searchsorted(when, _naive(time), side="right") for time in times])
    keep = np.flatnonzero(np.diff(upto, prepend=0) > 0)  # a look without new units is none
    if not len(keep):
        return ()
    prefixes: Ints = upto[keep]
    ends = len(times) == experiment.looks
    along = effects(values, treated, prefixes)
    fractions = prefixes / (experiment.planned_units * pair_share(experiment, treatment))
    z, bounds = planned(along, fractions, alpha, last=ends)
    return tuple(
        _look(times[k], int(k) + 1, n, along, fractions, z, bounds)
        for n, k in enumerate(keep)
        if math.isfinite(z[n])
    )


def _look(
    time: datetime, number: int, at: int, along: Effects,
    fractions: Floats, z: Floats, bounds: list[float],
) -> Look:  # fmt: skip
    effect, half = float(along.effect[at]), bounds[at] * float(along.error[at])
    return Look(
        number=number,
        at=time.isoformat(),
        units=int(along.control_units[at] + along.treatment_units[at]),
        fraction=float(fractions[at]),
        effect=effect,
        z=float(z[at]),
        boundary=bounds[at],
        interval=Interval(low=effect - half, high=effect + half),
    )


def _naive(time: datetime) -> np.datetime64:
    return np.datetime64(time.astimezone(timezone.utc).replace(tzinfo=None))


def _ratio_over_time(first: pd.DataFrame, arms: int) -> tuple[tuple[str, float], ...]:
    """Share of the first treatment among control and first treatment, as units came in."""
    two = first[first["arm"] < 2]
    share = (two["arm"] == 1).expanding().mean().to_numpy()
    if two.empty:
        return ()
    picked = np.unique(np.linspace(0, len(two) - 1, POINTS).astype(int)).tolist()
    return tuple((two["exposed_at"].iloc[p].isoformat(), float(share[p])) for p in picked)
