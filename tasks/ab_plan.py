"""How many units and days an experiment needs, before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feature_repo.errors import DeclarationError
from serving.experiment import Metric
from tasks.ab_data import Units, metric_values, read_frame
from tasks.ab_effects import unit_variance
from tasks.ab_looks import units_needed
from tasks.page import from_markdown, markdown_table
from tasks.pictures import BLUE, inline_png, new_figure, png


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """Units and days (until so many have come) of one way to look, with one variance."""

    way: str
    variance: str
    units: int
    control: int
    treatment: int
    days: int


def variances_of(base_rate: float, history: str, metric: Metric) -> dict[str, float]:
    """Variance of one unit's outcome by what it rests on: a base rate, or past outcomes (columns
    unit and the metric's), then also what a covariate leaves of it.

    Raises:
        DeclarationError: neither is given, or the rate is none.
        SourceError: the history cannot be read.
    """
    if not history:
        if not 0 < base_rate < 1:
            raise DeclarationError(
                f"plan: base_rate {base_rate:g} must be between 0 and 1; for a mean or a ratio of "
                "sums give a history and its numerator"
            )
        return {f"base rate {base_rate:g}": base_rate * (1 - base_rate)}
    if not metric.numerator:
        raise DeclarationError(
            f"plan: numerator must name the column of {history} that the metric averages"
        )
    frame = read_frame(history, ["unit", *metric.columns])
    place = np.unique(frame["unit"], return_inverse=True)[1].astype(np.int64)
    count = int(place.max()) + 1
    units = Units(frame=frame, arm=np.zeros(count, np.int64), exposed_at=None)
    values, known = metric_values(metric, units, frame.assign(place=place))
    plain, adjusted = unit_variance(values[known])
    told = {"history": plain}
    return {**told, "history with CUPED": adjusted} if metric.covariate else told


def plan(
    variances: dict[str, float], mde: float, daily_units: int, weights: tuple[float, float],
    alpha: float, power: float, looks: int,
) -> list[PlanRow]:  # fmt: skip
    """A row for each variance and way to look; ``weights`` are shares of the daily units, those
    in neither arm count among the units.

    Raises:
        DeclarationError: an input is out of its bounds; names it.
    """
    _check(mde, daily_units, weights, alpha, power, looks)
    return [
        PlanRow(
            way=needed.way,
            variance=rests_on,
            units=needed.units,
            control=math.ceil(needed.units * weights[0]),
            treatment=math.ceil(needed.units * weights[1]),
            days=math.ceil(needed.units / daily_units),
        )
        for rests_on, variance in variances.items()
        for needed in units_needed(variance, mde, weights, alpha, power, looks)
    ]


def describe(rows: Sequence[PlanRow], mde: float, power: float) -> str:
    """The plan in lines."""
    told = [f"{r.way} ({r.variance}): {r.units:,} units, {r.days} days" for r in rows]
    return "\n".join([f"to find a difference of {mde:g} with a power of {power:g}:", *told])


def page(rows: Sequence[PlanRow], mde: float, power: float) -> str:
    """The plan as HTML: a table, and the days as bars."""
    table = markdown_table(
        ["way to look", "variance from", "units", "control", "treatment", "days"],
        [[r.way, r.variance, f"{r.units:,}", f"{r.control:,}", f"{r.treatment:,}", r.days]
         for r in rows],
    )  # fmt: skip
    figure = new_figure(7.2, 0.9 + 0.5 * len(rows))
    axes = figure.add_subplot()
    axes.barh([f"{r.way}\n{r.variance}" for r in rows][::-1], [r.days for r in rows][::-1],
              color=BLUE)  # fmt: skip
    axes.set_xlabel("days")
    axes.tick_params(labelsize=7)
    said = f"<p>Units and days to find a difference of {mde:g} with a power of {power:g}.</p>"
    return said + from_markdown(table) + inline_png(png(figure), "Days by way to look")


def _check(
    mde: float, daily_units: int, weights: tuple[float, float], alpha: float, power: float,
    looks: int,
) -> None:  # fmt: skip
    rules = [
        ("mde", 0 < mde < math.inf, "must be above 0 and finite"),
        ("daily_units", daily_units > 0, "must be above 0"),
        ("weights", all(0 < w < 1 for w in weights), "must each be between 0 and 1"),
        ("weights", sum(weights) <= 1 + 1e-9, "must sum to 1 or less"),
        ("alpha", 0 < alpha < 0.5, "must be above 0 and below 0.5"),
        ("power", 0.5 <= power < 1, "must be at least 0.5 and below 1"),
        ("looks", 0 <= looks <= 100, "must be between 0 and 100"),
    ]
    for name, fine, rule in rules:
        if not fine:
            raise DeclarationError(f"plan: {name} {rule}; mend the input")
