"""Metrics against scikit-learn, intervals against the truth of a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from tasks import metrics
from tasks.comparison import compare, in_words
from tasks.rows import Rows

RNG = np.random.default_rng(7)
TARGET = (RNG.random(4000) < 0.3).astype(np.float64)
NOISY = np.clip(0.3 + 0.2 * (TARGET - 0.3) + RNG.normal(0, 0.15, 4000), 0, 1)
SCORE = np.round(NOISY, 2).astype(np.float64)  # rounded: many ties


def test_binary_metrics_equal_those_of_scikit_learn_with_many_ties() -> None:
    told = metrics.points("binary", TARGET, SCORE)
    clipped = np.clip(SCORE, 1e-7, 1 - 1e-7)
    assert told["auc"] == pytest.approx(sk.roc_auc_score(TARGET, SCORE), abs=1e-12)
    assert told["average_precision"] == pytest.approx(
        sk.average_precision_score(TARGET, SCORE), abs=1e-12
    )
    assert told["log_loss"] == pytest.approx(sk.log_loss(TARGET, clipped), abs=1e-12)
    assert told["brier"] == pytest.approx(sk.brier_score_loss(TARGET, SCORE), abs=1e-12)
    assert told["base_rate"] == TARGET.mean()


def test_regression_metrics_equal_those_of_scikit_learn() -> None:
    target, score = RNG.normal(1e5, 5, 1000), RNG.normal(1e5, 5, 1000)
    told = metrics.points("regression", target, score)
    assert told["rmse"] == pytest.approx(sk.root_mean_squared_error(target, score), rel=1e-12)
    assert told["mae"] == pytest.approx(sk.mean_absolute_error(target, score), rel=1e-12)
    assert told["r2"] == pytest.approx(sk.r2_score(target, score), rel=1e-9)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_resample_is_the_metric_of_the_rows_drawn(task: str) -> None:
    """Weights stand for repeated rows: repeat them for real and compare."""
    days = np.sort(RNG.integers(0, 20, 4000))
    weights = metrics.day_weights(20, resamples=5)
    measured = metrics.measure(task, TARGET, SCORE, days, weights)
    for index, drawn in enumerate(weights):
        rows = np.repeat(np.arange(4000), drawn[days].astype(int))
        repeated = metrics.points(task, TARGET[rows], SCORE[rows])
        for name in repeated.keys() - {"ece"}:  # its bins stay those of the full sample
            assert measured[name][index] == pytest.approx(repeated[name], abs=1e-10), name


def test_scikit_learn_agrees_on_weighted_auc_and_precision() -> None:
    days = np.arange(4000) % 50
    weights = metrics.day_weights(50, resamples=3)
    told = metrics.measure("binary", TARGET, SCORE, days, weights)
    for index, drawn in enumerate(weights):
        rows = drawn[days]
        auc = sk.roc_auc_score(TARGET, SCORE, sample_weight=rows)
        precision = sk.average_precision_score(TARGET, SCORE, sample_weight=rows)
        assert told["auc"][index] == pytest.approx(auc, abs=1e-12)
        assert told["average_precision"][index] == pytest.approx(precision, abs=1e-12)


def test_calibration_error_is_zero_when_scores_are_the_rates() -> None:
    score = np.repeat([0.2, 0.8], 1000)
    target = np.concatenate([np.arange(1000) < 200, np.arange(1000) < 800]).astype(float)
    assert metrics.points("binary", target, score)["ece"] == pytest.approx(0, abs=1e-12)
    assert metrics.points("binary", target, np.full(2000, 0.6))["ece"] == pytest.approx(0.1)


def test_a_slice_of_one_class_has_no_auc_and_no_crash() -> None:
    told = metrics.points("binary", np.ones(10), np.linspace(0.1, 0.9, 10))
    assert np.isnan(told["auc"])
    assert told["base_rate"] == 1
    bounds = metrics.interval(np.array([np.nan, np.nan]))
    assert np.isnan(bounds.low)


def test_intervals_cover_the_truth_when_days_are_correlated() -> None:
    """Mean of a target with a shared effect a day; nominal 95 %, naive rows would give far less."""
    rng = np.random.default_rng(1)
    days = np.repeat(np.arange(60), 30)
    weights = metrics.day_weights(60)
    covered = naive = 0
    for _ in range(200):
        rate = np.clip(0.3 + rng.normal(0, 0.12, 60), 0.01, 0.99)[days]
        target = (rng.random(1800) < rate).astype(float)
        values = metrics.measure("binary", target, np.full(1800, 0.3), days, weights)
        bounds = metrics.interval(values["base_rate"])
        covered += bounds.low <= 0.3 <= bounds.high
        half = 1.96 * target.std() / np.sqrt(1800)
        naive += abs(target.mean() - 0.3) <= half
    assert 0.89 <= covered / 200 <= 0.99
    assert naive / 200 < 0.80


def _rows(count: int) -> Rows:
    hours = np.arange(count).astype("timedelta64[h]")
    event = (np.datetime64("2013-01-01", "s") + hours).astype("datetime64[s]")
    return Rows(columns={}, target=TARGET[:count], event_time=event)


def test_a_model_against_itself_differs_by_nothing_and_not_significantly() -> None:
    told = compare("binary", _rows(4000), SCORE, SCORE.copy())
    for name, entry in told.items():
        assert (entry["difference"], entry["low"], entry["high"]) == (0, 0, 0), name
        assert entry["significant"] is False


def test_a_better_model_is_significantly_better_in_pairs() -> None:
    worse = np.clip(SCORE + RNG.normal(0, 0.2, 4000), 0, 1)
    entry = compare("binary", _rows(4000), SCORE, worse)["auc"]
    assert entry["low"] > 0
    assert entry["significant"] is True
    assert "not significant" not in in_words("auc", entry, 4000)


def test_days_turn_where_nobody_flies() -> None:
    """Flights from 10:00 to 03:00 UTC: one bad evening across midnight is one day."""
    instants = np.array(
        [f"2013-07-0{d}T{h:02d}:00" for d in (1, 2, 3) for h in (0, 1, 2, 12, 18, 23)],
        dtype="datetime64[s]",
    )
    days = metrics.day_numbers(instants)
    evening = instants >= np.datetime64("2013-07-01T12:00")
    evening &= instants <= np.datetime64("2013-07-02T02:00")
    assert len(set(days[evening].tolist())) == 1


def test_the_same_figures_every_time() -> None:
    assert (metrics.day_weights(30) == metrics.day_weights(30)).all()
    assert metrics.day_weights(30).sum(axis=1).tolist() == [30.0] * metrics.RESAMPLES
