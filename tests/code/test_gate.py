"""The gate: rules are data, and what is missing does not pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.contract import GateRule
from tasks.gate import judge_rules, look_up, verdict_table

EVALUATION: dict[str, Any] = {
    "test": {"auc": 0.77, "log_loss": 0.46, "ci": {"auc": [0.76, 0.78]}, "ece": None},
    "slice_min": {"origin": {"auc": 0.74}},
    "versus_reference": {"auc": {"significant": True}},
}


def rule(metric: str, operator: Any = ">=", limit: float = 0.7, optional: bool = False) -> GateRule:
    return GateRule(name="r", metric=metric, operator=operator, limit=limit, optional=optional)


@pytest.mark.parametrize(
    ("given_rule", "passed"),
    [
        (rule("test.auc", ">=", 0.765), True),
        (rule("test.auc", ">=", 0.77), True),
        (rule("test.auc", ">=", 0.78), False),
        (rule("test.log_loss", "<=", 0.47), True),
        (rule("test.log_loss", "<=", 0.45), False),
        (rule("slice_min.origin.auc", ">=", 0.72), True),
        (rule("test.ci.auc.0", ">=", 0.76), True),
        (rule("test.ci.auc.1", "<=", 0.77), False),
    ],
)
def test_a_rule_compares_a_metric_with_its_limit(given_rule: GateRule, passed: bool) -> None:
    (verdict,) = judge_rules((given_rule,), EVALUATION)
    assert verdict.passed is passed
    assert verdict.limit == given_rule.limit
    assert not math.isnan(verdict.value)


def test_a_verdict_over_slices_says_which_it_leaves_out() -> None:
    measured = {"slice_min": {"origin": {"auc": 0.74, "left_out": ["BOS", "SFO"]}}}
    (verdict,) = judge_rules((rule("slice_min.origin.auc"),), measured)
    assert verdict.passed
    assert verdict.note == "without 2 slices of too few rows: BOS, SFO"
    measured["slice_min"]["origin"]["left_out"] = []
    (verdict,) = judge_rules((rule("slice_min.origin.auc"),), measured)
    assert verdict.note == ""


@pytest.mark.parametrize(
    "metric",
    ["test.f1", "slice_min.carrier.auc", "test", "test.auc.low", "test.ci.auc.2", "", "test.ece"],
)
def test_a_metric_that_is_missing_fails_unless_optional(metric: str) -> None:
    (verdict,) = judge_rules((rule(metric),), EVALUATION)
    assert not verdict.passed
    assert "missing" in verdict.note
    assert math.isnan(verdict.value)
    (verdict,) = judge_rules((rule(metric, optional=True),), EVALUATION)
    assert verdict.passed
    assert "optional" in verdict.note


def test_nan_fails_even_when_optional() -> None:
    for optional in (True, False):
        (verdict,) = judge_rules((rule("a", optional=optional),), {"a": float("nan")})
        assert not verdict.passed
        assert "not a number" in verdict.note


def test_an_optional_rule_counts_when_its_metric_is_there() -> None:
    (verdict,) = judge_rules((rule("test.auc", ">=", 0.9, optional=True),), EVALUATION)
    assert not verdict.passed


def test_truth_values_and_texts_are_no_numbers() -> None:
    assert look_up(EVALUATION, "versus_reference.auc.significant") is None
    assert look_up({"a": "0.9"}, "a") is None


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_one_of_the_two_directions_always_passes(value: float, limit: float) -> None:
    both = judge_rules((rule("a", ">=", limit), rule("a", "<=", limit)), {"a": value})
    assert any(v.passed for v in both)
    assert all(v.passed for v in both) is (value == limit)


def test_the_table_names_every_rule_and_escapes_it() -> None:
    shown = verdict_table(judge_rules((rule("a<b", ">=", 0.5),), EVALUATION))
    assert "a&lt;b" in shown
    assert "refused" in shown
