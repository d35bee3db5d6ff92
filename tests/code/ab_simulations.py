"""Seeded experiments whose truth is known: units that send several requests, a covariate that is
known before, and a treatment that adds the same to every error probability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.ab_analysis import anytime, planned
from tasks.ab_effects import effects
from tasks.ab_fixed import fixed_horizon

FORMS = ("mean", "mean with CUPED", "ratio with CUPED")
BASE = 0.3


class Rates(NamedTuple):
    """How often each way to look was wrong: share of runs, of ``runs``."""

    anytime: float
    planned: float
    fixed: float
    runs: int


def draw(
    rng: np.random.Generator, form: str, effect: float, runs: int, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64 [runs, units, 4] and bool [runs, units] as ``tasks.ab_effects`` takes them."""
    size = (runs, units)
    quality, treated = rng.uniform(-1, 1, size), rng.random(size) < 0.5
    requests = 1 + rng.poisson(2, size) if form.startswith("ratio") else np.ones(size, np.int64)
    chance = BASE + 0.25 * quality + effect * treated
    values = np.zeros((*size, 4))
    values[..., 0] = rng.binomial(requests, chance)
    values[..., 1] = requests
    if form.endswith("CUPED"):
        values[..., 2] = quality + rng.normal(0, 0.3, size)
    values[..., 3] = 1
    return values, treated


def wrong(form: str, effect: float, runs: int, units: int, every: int, seed: int) -> Rates:
    """How often intervals miss the effect: any-time at a look after every ``every`` units, 20
    planned looks (O'Brien-Fleming), one look at the end; without an effect, false positives."""
    rng = np.random.default_rng(seed)
    alpha, missed = 0.05, np.zeros(3)
    prefixes = np.arange(every, units + 1, every)
    looks = np.arange(1, 21) * (units // 20)
    chunk = max(1, 200_000 // units)
    for start in range(0, runs, chunk):
        values, treated = draw(rng, form, effect, min(chunk, runs - start), units)
        along, at_looks = effects(values, treated, prefixes), effects(values, treated, looks)
        z, bounds = planned(
            at_looks._replace(effect=at_looks.effect - effect), looks / units, alpha, True
        )
        missed[1] += (np.abs(z) >= bounds).any(axis=-1).sum()
        outside = np.abs(along.effect - effect) > anytime(along, units, alpha)
        missed[0] += outside.any(axis=-1).sum()
        for run in range(len(values)):
            missed[2] += fixed_horizon(values[run], treated[run], alpha).interval.excludes(effect)
    always, at_looks_only, at_the_end = (missed / runs).tolist()
    return Rates(always, at_looks_only, at_the_end, runs)
