"""The fixed-horizon analysis, by tea-tasting, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.sequential import NOTHING_KNOWN, Interval
from tasks.ab_effects import Bools, Floats, effects

COLUMNS = ("numerator", "denominator", "covariate", "covariate_denominator")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """One test at the end; ``stands``: its p-value is below its level, for a secondary metric
    Holm's."""

    effect: float
    interval: Interval
    pvalue: float
    stands: bool


def fixed_horizon(values: Floats, treated: Bools, alpha: float) -> Fixed:
    """Welch's t-test of the (CUPED-adjusted, delta-method) difference; ``values`` float64 [n, 4]
    and ``treated`` bool [n] as in ``tasks.ab_effects``."""
    import tea_tasting

    found = effects(values, treated, np.array([len(values)]))
    if not found.error[0] > 0:  # nothing varies: nothing is known
        return Fixed(
            effect=float(found.effect[0]), interval=NOTHING_KNOWN, pvalue=1.0, stands=False
        )
    # A mean is a ratio with the denominator 1, and a metric without a covariate has a constant
    # one, whose coefficient is 0: one call serves all.
    ratio = tea_tasting.RatioOfMeans(*COLUMNS, confidence_level=1 - alpha)
    told = ratio.analyze_aggregates(_aggregates(values[~treated]), _aggregates(values[treated]))
    return Fixed(
        effect=float(told.effect_size),
        interval=Interval(
            low=float(told.effect_size_ci_lower), high=float(told.effect_size_ci_upper)
        ),
        pvalue=float(told.pvalue),
        stands=bool(told.pvalue < alpha),
    )


def holm(pvalues: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses fall (Holm, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 1979)."""
    order = sorted(range(len(pvalues)), key=lambda at: pvalues[at])
    fallen = [False] * len(pvalues)
    for rank, at in enumerate(order):
        if pvalues[at] > alpha / (len(pvalues) - rank):
            break
        fallen[at] = True
    return fallen


def _aggregates(values: Floats) -> Any:
    from tea_tasting.aggr import Aggregates

    covariance = np.cov(values, rowvar=False)
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    return Aggregates(
        count_=len(values),
        mean_={name: float(values[:, at].mean()) for at, name in enumerate(COLUMNS)},
        var_={name: float(covariance[at, at]) for at, name in enumerate(COLUMNS)},
        cov_={tuple(sorted((COLUMNS[a], COLUMNS[b]))): float(covariance[a, b]) for a, b in pairs},
    )
