"""Estimators and boundaries against tea-tasting, published tables and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ab_simulations import FORMS, draw

from serving.sequential import NOTHING_KNOWN
from tasks import ab_looks
from tasks.ab_analysis import anytime
from tasks.ab_effects import effects, unit_variance
from tasks.ab_fixed import fixed_horizon, holm


@pytest.mark.parametrize("form", FORMS)
def test_effects_are_those_of_tea_tasting_at_every_prefix(form: str) -> None:
    """Both ends of its interval are ours: it has the same estimate, error and, in the limit,
    quantile."""
    values, treated = (a[0] for a in draw(np.random.default_rng(1), form, 0.05, 1, 30_000))
    prefixes = np.array([5000, 12_345, 30_000])
    along = effects(values, treated, prefixes)
    for at, n in enumerate(prefixes):
        fixed = fixed_horizon(values[:n], treated[:n], 0.05)
        half = 1.96 * along.error[at]
        assert along.effect[at] == pytest.approx(fixed.effect, abs=1e-12)
        assert fixed.interval.low == pytest.approx(fixed.effect - half, rel=2e-3)
        assert fixed.interval.high == pytest.approx(fixed.effect + half, rel=2e-3)
        assert along.control_units[at] + along.treatment_units[at] == n


def test_a_covariate_takes_variance_out() -> None:
    rng = np.random.default_rng(2)
    values, _ = draw(rng, "mean with CUPED", 0.0, 1, 50_000)
    plain, adjusted = unit_variance(values[0])
    # Chance .3 +- .25 uniform; the covariate's share of the chance's variance is 1/(1 + .27).
    assert plain == pytest.approx(0.21, abs=0.005)
    assert adjusted == pytest.approx(plain - 0.25**2 / 3 / 1.27, abs=0.003)


def test_what_does_not_vary_proves_nothing() -> None:
    values = np.tile([0.0, 1.0, 0.0, 1.0], (1000, 1))
    treated = np.arange(1000) % 2 == 0
    along = effects(values, treated, np.array([500, 1000]))
    assert np.isinf(anytime(along, 1000, 0.05)).all()
    assert fixed_horizon(values, treated, 0.05).interval == NOTHING_KNOWN


def test_boundaries_are_the_published_ones() -> None:
    """Lan-DeMets O'Brien-Fleming, five equal looks, two-sided .05: Jennison and Turnbull, "Group
    sequential methods", 2000, and the R packages ldbounds and gsDesign."""
    equal = [k / 5 for k in range(1, 6)]
    published = [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    assert ab_looks.boundaries(equal, 0.05) == pytest.approx(published, abs=5e-4)
    assert ab_looks.boundaries([1.0], 0.05) == pytest.approx([1.95996], abs=1e-4)
    assert ab_looks.crossing(equal, published, 0.0) == pytest.approx(0.05, abs=1e-4)


def test_looks_so_far_keep_their_boundaries_whatever_comes_later() -> None:
    """Fewer or more units than planned: only the last look's boundary makes up for it."""
    some = [0.2, 0.5, 0.7]
    for last in (0.8, 1.0, 1.4):
        bounds = ab_looks.boundaries([*some, last], 0.05, last=True)
        assert bounds[:3] == ab_looks.boundaries(some, 0.05)
        assert ab_looks.crossing([*some, last], bounds, 0.0) == pytest.approx(0.05, abs=1e-5)
    over = ab_looks.boundaries([0.5, 1.2, 1.5], 0.05, last=True)
    assert over[1] < 2.1
    assert over[2] == math.inf  # all was spent at the planned size


def test_planned_units_have_the_power_that_was_asked_for() -> None:
    """Simulated z-values at each look of an experiment of the planned size."""
    rng, looks, mde, variance = np.random.default_rng(3), 5, 0.02, 0.237 * 0.763
    fixed, planned, any_time = ab_looks.units_needed(variance, mde, (0.5, 0.5), 0.05, 0.8, looks)
    assert fixed.units == pytest.approx(14_194, abs=5)  # (1.96 + .8416)^2 * 4 * variance / mde^2
    assert fixed.units < planned.units < 1.05 * fixed.units
    drift = mde / math.sqrt(4 * variance / planned.units)
    steps = rng.normal(drift / looks, math.sqrt(1 / looks), (20_000, looks)).cumsum(axis=1)
    z = steps / np.sqrt(np.arange(1, looks + 1) / looks)
    bounds = ab_looks.boundaries([k / looks for k in range(1, looks + 1)], 0.05, last=True)
    found = (np.abs(z) >= bounds).any(axis=1).mean()
    print(f"power at {planned.units:,} units: {found:.4f}")
    assert found == pytest.approx(0.8, abs=0.01)
    assert any_time.units > planned.units


def test_holm_goes_down_from_the_smallest() -> None:
    assert holm([0.04, 0.01, 0.03], 0.05) == [False, True, False]
    assert holm([0.024, 0.01, 0.04], 0.05) == [True, True, True]
    assert holm([], 0.05) == []
