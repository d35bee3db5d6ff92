"""Confidence sequences against the truth of seeded simulations, looked at after every observation.

Miscoverage is held to alpha plus three standard errors of the simulations' own share; run with
``-s`` to see the figures.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from feature_repo.errors import DeclarationError
from serving import sequential
from serving.sequential import BoundedMean, Interval, Moments

ALPHA, RUNS, LOOKS = 0.05, 2000, 2000
LIMIT = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)  # .0646
REACHED = math.log(2 / ALPHA)
DIFFERENCES = np.array([0.0, 0.5, 1.0])  # of -1, 0 and 1, on the scale from 0 to 1


def ever_excluded(support: sequential.Floats, drawn: np.ndarray, mean: float) -> np.ndarray:
    """Whether the true mean is outside of some interval: bool [runs]; ``drawn``: int [runs, n],
    which value of the support was observed."""
    outside = np.zeros(len(drawn), bool)
    for part in np.array_split(np.arange(len(drawn)), 20):
        counts = np.stack([(drawn[part] == v).cumsum(axis=1) for v in range(len(support))], axis=-1)
        below = sequential.log_capital(support, counts.astype(float), mean) >= REACHED
        above = sequential.log_capital(1 - support, counts.astype(float), 1 - mean) >= REACHED
        outside[part] = (below | above).any(axis=1)
    return outside


def paired(
    rng: np.random.Generator, disagree: float, effect: float, size: tuple[int, int]
) -> np.ndarray:
    """Errors of the canary less the champion's on the same requests, as 0, 1, 2 for -1, 0, 1."""
    draws = rng.random(size)
    worse = (disagree + effect) / 2
    return 1 + (draws < worse).astype(np.int8) - ((draws >= worse) & (draws < disagree))


@pytest.mark.parametrize("rate", [0.237, 0.01])
def test_a_rate_is_missed_rarely(rate: float) -> None:
    drawn = (np.random.default_rng(1).random((RUNS, LOOKS)) < rate).astype(np.int8)
    missed = ever_excluded(np.array([0.0, 1.0]), drawn, rate).mean()
    print(f"rate {rate}: {missed:.4f} of {RUNS} runs ever missed it in {LOOKS} looks")
    assert missed <= LIMIT


def test_an_identical_pair_is_told_apart_rarely_and_a_worse_one_soon() -> None:
    """Two models that disagree about the error on 6 % of requests; base error rate 0.237."""
    rng = np.random.default_rng(2)
    same = ever_excluded(DIFFERENCES, paired(rng, 0.06, 0.0, (RUNS, LOOKS)), 0.5).mean()
    drawn = paired(rng, 0.06, 0.02, (RUNS, 10_000)).reshape(RUNS, 500, 20)
    counts = np.stack([(drawn == v).sum(axis=2).cumsum(axis=1) for v in range(3)], axis=-1)
    seen = sequential.log_capital(DIFFERENCES, counts.astype(float), 0.5) >= REACHED
    found, pairs = seen.any(axis=1).mean(), 20 * (1 + seen.argmax(axis=1))
    print(
        f"paired errors: A/A missed {same:.4f}; 2 points worse found within 10,000 pairs in "
        f"{found:.4f} of runs, half of them within {np.median(pairs):.0f}, 9 in 10 within "
        f"{np.quantile(pairs, 0.9):.0f}"
    )
    assert same <= LIMIT
    assert found >= 0.9


def test_the_interval_is_where_the_capital_says() -> None:
    """The ends that bisection finds are those that the simulations above judge by."""
    rng = np.random.default_rng(3)
    values = paired(rng, 0.06, 0.02, (1, 3000))[0] - 1.0
    told = BoundedMean(low=-1).update(values)
    interval = told.interval(ALPHA)
    counts = np.array([(values == v).sum() for v in (-1, 0, 1)], float)
    for end, support, scale in (
        (interval.low, DIFFERENCES, 1),
        (interval.high, 1 - DIFFERENCES, -1),
    ):
        capital = sequential.log_capital(support, counts, 0.5 + scale * end / 2)
        assert capital == pytest.approx(REACHED, abs=1e-6)
    assert told.mean == pytest.approx(values.mean(), abs=1e-12)
    assert interval.low < values.mean() < interval.high


def test_a_continuous_mean_is_missed_rarely_and_its_histogram_costs_little() -> None:
    """Paired differences of scores; the histogram's capital is below that of the values."""
    rng = np.random.default_rng(4)
    missed = 0
    for _ in range(RUNS):  # a look at 5, 10, 20, ..., 1280 observations
        state, values = BoundedMean(low=-1), np.clip(rng.normal(0, 0.4, 1280), -1, 1)
        edges = [0, 5, 10, 20, 40, 80, 160, 320, 640, 1280]
        for start, end in itertools.pairwise(edges):
            state = state.update(values[start:end])
            support = np.linspace(0, 1, sequential.CELLS + 1)
            counts = np.asarray(state.histogram)
            high = sequential.log_capital(support, counts, 0.5)
            if max(high, sequential.log_capital(1 - support, counts, 0.5)) >= REACHED:
                missed += 1
                break
    exact = sequential.log_capital((values + 1) / 2, np.ones(1280), 0.45)
    rough = sequential.log_capital(support, np.asarray(state.histogram), 0.45)
    print(f"scores: {missed / RUNS:.4f} ever missed; log capital {rough:.3f} of {exact:.3f}")
    assert missed / RUNS <= LIMIT
    assert 0.98 * exact < rough <= exact


def test_a_difference_of_arms_is_missed_rarely() -> None:
    """A union: it can only miss where an arm misses its own rate; a 5 % canary."""
    rng = np.random.default_rng(5)
    arms = np.zeros((2, RUNS), bool)
    for arm, (rate, looks) in enumerate(((0.237, LOOKS), (0.257, LOOKS // 20))):
        drawn = (rng.random((RUNS, looks)) < rate).astype(np.int8)
        for part in np.array_split(np.arange(RUNS), 10):
            ones = drawn[part].cumsum(axis=1)
            counts = np.stack([np.arange(1, looks + 1) - ones, ones], axis=-1).astype(float)
            for support, mean in (((0.0, 1.0), rate), ((1.0, 0.0), 1 - rate)):
                capital = sequential.log_capital(np.array(support), counts, mean)
                arms[arm, part] |= (capital >= math.log(4 / ALPHA)).any(axis=1)
    missed = arms.any(axis=0).mean()
    print(f"difference of arms: at most {missed:.4f} ever missed")
    assert missed <= LIMIT


def test_a_difference_holds_both_arms() -> None:
    rng = np.random.default_rng(6)
    champion = BoundedMean().update((rng.random(20_000) < 0.01).astype(float))
    canary = BoundedMean().update((rng.random(200) < 0.5).astype(float))
    told = sequential.difference(champion, canary, ALPHA)
    assert told.low > 0.3  # a crashing canary is seen within 200 requests
    assert told.low == canary.interval(0.025).low - champion.interval(0.025).high
    assert told.high == canary.interval(0.025).high - champion.interval(0.025).low


@pytest.mark.parametrize("name", ["latency", "score"])
def test_an_asymptotic_sequence_is_missed_rarely_after_its_burn_in(name: str) -> None:
    """Lognormal latencies (skewness 1.75) and normal scores, and their difference between arms."""
    rng = np.random.default_rng(7)
    true = math.exp(0.125) if name == "latency" else 0.0
    missed, apart = np.zeros(RUNS, bool), np.zeros(RUNS, bool)
    counts = np.arange(1, LOOKS + 1)
    factor = sequential.asymptotic_factor(counts, 1000, ALPHA)
    both = sequential.asymptotic_factor(2 * counts, 2000, ALPHA)
    late = counts >= sequential.BURN_IN
    for part in np.array_split(np.arange(RUNS), 20):
        drawn = rng.normal(0, 1, (2, len(part), LOOKS))
        values = np.exp(drawn / 2) if name == "latency" else drawn
        mean = values.cumsum(axis=2) / counts
        variance = ((values**2).cumsum(axis=2) - counts * mean**2) / np.maximum(counts - 1, 1)
        error = np.sqrt(variance / counts)
        missed[part] = (np.abs(mean[0] - true) > error[0] * factor)[:, late].any(axis=1)
        gap = np.abs(mean[1] - mean[0]) > np.sqrt((error**2).sum(axis=0)) * both
        apart[part] = gap[:, late].any(axis=1)
    print(f"asymptotic {name}: {missed.mean():.4f} ever missed, A/A {apart.mean():.4f}")
    assert missed.mean() <= LIMIT
    assert apart.mean() <= LIMIT


def test_asymptotic_intervals_are_those_of_the_factor() -> None:
    rng = np.random.default_rng(8)
    ours, theirs = rng.lognormal(0, 0.5, 5000), rng.lognormal(0.1, 0.5, 500)
    a, b = Moments().update(ours), Moments().update(theirs[:3]).update(theirs[3:])
    assert b.mean == pytest.approx(theirs.mean())
    assert b.variance == pytest.approx(theirs.var(ddof=1))
    error = math.sqrt(ours.var(ddof=1) / 5000 + theirs.var(ddof=1) / 500)
    told = sequential.asymptotic_difference(a, b, ALPHA, 5000)
    half = error * sequential.asymptotic_factor(5500, 5000, ALPHA)
    assert (told.low, told.high) == pytest.approx((b.mean - a.mean - half, b.mean - a.mean + half))
    one = sequential.asymptotic_interval(a, ALPHA, 5000)
    assert one.high - one.low == pytest.approx(
        2 * math.sqrt(a.variance / 5000) * sequential.asymptotic_factor(5000, 5000, ALPHA)
    )
    assert 2.7 < sequential.asymptotic_factor(5000, 5000, ALPHA) < 3.1
    few = Moments().update(ours[:99])
    assert sequential.asymptotic_interval(few, ALPHA, 5000) == sequential.NOTHING_KNOWN
    assert sequential.asymptotic_difference(a, few, ALPHA, 5000) == sequential.NOTHING_KNOWN


def test_a_look_goes_on_where_the_last_one_stopped() -> None:
    """Through JSON, in batches of any size, in any order: the same state up to rounding."""
    rng = np.random.default_rng(9)
    values = rng.uniform(-1, 1, 1000)
    once, state, moments = BoundedMean(low=-1).update(values), BoundedMean(low=-1), Moments()
    for batch in np.split(values[::-1], [0, 1, 10, 500]):
        state = BoundedMean(**json.loads(json.dumps(asdict(state)))).update(batch)
        moments = Moments(**json.loads(json.dumps(asdict(moments)))).update(batch)
    assert state.count == moments.count == 1000
    assert state.histogram == pytest.approx(once.histogram)
    assert state.mean == pytest.approx(values.mean())
    assert state.interval(ALPHA).low == pytest.approx(once.interval(ALPHA).low, abs=1e-12)
    assert moments.variance == pytest.approx(values.var(ddof=1))


def test_little_is_known_of_few_observations() -> None:
    assert BoundedMean(low=-1).interval(ALPHA) == Interval(low=-1, high=1)
    assert math.isnan(BoundedMean().mean)
    one = BoundedMean().update(np.ones(1)).interval(ALPHA)
    # Were the rate alpha / 2, a first 1 would be as rare as a miss may be.
    assert one.high == 1
    assert 0 < one.low < ALPHA / 2
    none = BoundedMean().update(np.zeros(300)).interval(ALPHA)
    assert none.low == 0
    assert none.high < 0.025


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"1\.5 first.*\[0\.0, 1\.0\].*wider"):
        BoundedMean().update(np.array([0.5, 1.5]))
    with pytest.raises(DeclarationError, match="nan first"):
        BoundedMean().update(np.array([math.nan]))
    with pytest.raises(DeclarationError, match="below the upper"):
        BoundedMean(low=1, high=1)
    with pytest.raises(DeclarationError, match="another version"):
        BoundedMean(histogram=(0.0,))
    with pytest.raises(DeclarationError, match="not a finite number"):
        Moments().update(np.array([math.inf]))


def test_observations_that_have_not_varied_prove_nothing() -> None:
    """No error among the first thousand is no error rate of exactly 0."""
    none = Moments().update(np.zeros(1000))
    assert sequential.asymptotic_interval(none, ALPHA, 1000) == sequential.NOTHING_KNOWN
    assert sequential.asymptotic_difference(none, none, ALPHA, 1000) == sequential.NOTHING_KNOWN
