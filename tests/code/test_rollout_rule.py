"""The release's rule: up, hold or back, with the figures and words that led to it."""

from __future__ import annotations

import numpy as np
import pytest

from feature_repo.errors import DeclarationError, StateError
from serving.rollout import look
from serving.rollout_plan import Evidence, Limits, Plan, State, Traffic, from_json, to_json

PLAN = Plan(requests=100, pairs=100, outcomes=50)


def seen(
    champion: Traffic, challenger: Traffic, pairs: int = 0, outcomes: int = 0, worse: float = 0.0
) -> Evidence:
    """Pairs with equal scores, of which ``worse`` of the outcomes are the challenger's alone to
    be wrong."""
    mistakes = np.zeros(outcomes)
    mistakes[: int(worse * outcomes)] = 1
    return Evidence(
        champion=champion, canary=challenger, shadow=challenger, shift=np.zeros(pairs),
        mistakes=mistakes, loss=mistakes / 4,
    )  # fmt: skip


def test_a_step_waits_for_its_declared_minimum() -> None:
    state, decision = look(PLAN, State(), seen(Traffic(requests=40), Traffic(requests=40), 40, 10))
    assert (decision.kind, state.step) == ("hold", 0)
    assert "60 answers of the challenger, 60 pairs, 40 outcomes" in decision.words


def test_a_good_challenger_goes_up_step_by_step_and_says_what_was_not_excluded() -> None:
    state, total = State(), 0
    for step in range(4):
        total += 100
        arm = Traffic(requests=total)
        state, decision = look(PLAN, state, seen(arm, arm, total, total), approver="Ann")
        assert (decision.kind, state.step) == ("up", step + 1)
        assert "minimum is reached without evidence of harm" in decision.words
    assert "to 100 %, approved by Ann" in decision.words
    assert state.ended == ""
    last = seen(Traffic(requests=total), Traffic(requests=total + 100), total, total)
    state, decision = look(PLAN, state, last)
    assert (decision.kind, state.ended) == ("up", "done")


def test_harm_that_is_excluded_takes_it_up_before_the_minimum() -> None:
    plan = Plan(requests=10**6, limits=Limits(failed=0.02, slow=0.02))
    arm = Traffic(requests=20_000)
    _, decision = look(plan, State(), seen(arm, arm, 20_000, 20_000))
    assert decision.kind == "up"
    assert "harm beyond the limits is excluded" in decision.words


def test_the_last_step_waits_for_an_approval() -> None:
    arm = Traffic(requests=1_000)
    state, decision = look(PLAN, State(step=3), seen(arm, arm, 1_000, 1_000))
    assert (decision.kind, state.step) == ("hold", 3)
    assert "waits for an approval" in decision.words


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_crashing_challenger_goes_back_within_a_few_dozen_answers(step: int) -> None:
    good, bad = Traffic(requests=200), Traffic(requests=30, failed=30)
    state, decision = look(PLAN, State(step=step), seen(good, bad))
    assert (decision.kind, state.ended) == ("back", "back")
    assert "failed +1.0000" in decision.words


def test_a_server_that_was_started_again_counts_anew() -> None:
    state, arm = State(), Traffic(requests=200, failed=2)
    state, decision = look(PLAN, state, seen(arm, arm, 200, 200))
    assert decision.kind == "up"
    again = Evidence(**{**vars(seen(arm, arm, 200, 200)), "canary": Traffic(requests=30)})
    state = State(step=1, begun=state.begun)
    state = look(PLAN, state, seen(Traffic(requests=400, failed=2), arm, 400, 400))[0]
    state, decision = look(PLAN, state, again)
    assert "answers of the challenger" in decision.words
    assert next(f.count for f in decision.figures if f.name == "failed") == 30


def test_a_slow_and_a_wrong_and_a_shifted_challenger_go_back() -> None:
    arm = Traffic(requests=300)
    slow = look(PLAN, State(), seen(arm, Traffic(requests=300, slow=100)))[1]
    wrong = look(PLAN, State(), seen(arm, arm, 0, 1_000, worse=0.1))[1]
    shifted = Evidence(
        champion=arm, canary=arm, shadow=arm, shift=np.full(300, -0.3), mistakes=np.zeros(0),
        loss=np.zeros(0),
    )  # fmt: skip
    down = look(PLAN, State(), shifted)[1]
    assert [d.kind for d in (slow, wrong, down)] == ["back"] * 3
    assert "slow" in slow.words
    assert "mistakes" in wrong.words
    assert "shift -0.3" in down.words


def test_what_is_suspect_but_unproven_holds() -> None:
    arm = Traffic(requests=200)
    _, decision = look(PLAN, State(), seen(arm, arm, 200, 200, worse=0.01))
    assert decision.kind == "hold"
    assert "not proven" in decision.words


def test_a_fresh_harm_is_not_hidden_by_a_long_good_history() -> None:
    old = Traffic(requests=50_000)
    state, _ = look(PLAN, State(step=1), seen(old, old, 50_000, 50_000))
    assert state.step == 2
    ours, theirs = Traffic(requests=50_200), Traffic(requests=50_040, failed=40)
    assert look(PLAN, state, seen(ours, theirs, 50_000, 50_000))[1].kind == "back"


def test_a_regression_is_judged_by_its_shift_and_loss() -> None:
    plan = Plan(bounded=False, limits=Limits(loss=0.1, shift=10.0))
    arm, rng = Traffic(requests=500), np.random.default_rng(5)
    evidence = Evidence(
        champion=arm, canary=arm, shadow=arm, shift=rng.normal(0, 1, 500), mistakes=np.zeros(0),
        loss=rng.normal(2, 1, 500),
    )  # fmt: skip
    state, decision = look(plan, State(), evidence)
    assert state.ended == "back"
    assert [figure.name for figure in decision.figures] == ["failed", "slow", "shift", "loss"]


def test_an_ended_release_stays_as_it_is() -> None:
    state = State(ended="back")
    assert look(PLAN, state, seen(Traffic(requests=999), Traffic(requests=999)))[0] is state


def test_state_and_plan_go_through_json() -> None:
    arm = Traffic(requests=1_000)
    state, _ = look(PLAN, State(), seen(arm, arm, 1_000, 1_000))
    plan, read, more = from_json(to_json(PLAN, state, {"version": "1.0.1"}))
    assert (plan, read, more) == (PLAN, state, {"version": "1.0.1"})
    with pytest.raises(StateError, match="roll back, and begin it again"):
        from_json(b'{"format": "another"}')


def test_a_regression_s_plan_says_its_limits_in_its_unit() -> None:
    with pytest.raises(DeclarationError, match="these scores are in degrees: say how far"):
        PLAN.of("regression", "degrees")
    declared = Plan(limits=Limits(shift=1.0, loss=2.0))
    assert declared.of("regression", "degrees").bounded is False
    assert PLAN.of("binary", "probability") == PLAN


def test_limits_and_minima_below_zero_are_refused() -> None:
    with pytest.raises(DeclarationError, match="failed -1: it must be at least 0"):
        Limits(failed=-1)
    with pytest.raises(DeclarationError, match="pairs -5: it must be at least 0"):
        Plan(pairs=-5)


@pytest.mark.parametrize("steps", [(), (5, 25), (25, 5, 100), (0, 100), (5, 5, 100)])
def test_steps_that_do_not_rise_to_100_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(DeclarationError, match="rise from above 0 to 100"):
        Plan(steps=steps)
