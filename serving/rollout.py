"""When a challenger goes up, stays, or goes back: pure functions over confidence sequences.

A release begins in the shadow, then meets declared shares of the traffic. Each look takes all that
was seen so far and decides. Any number of looks keeps the chance of rolling back a challenger that
does no harm at or below ``Plan.alpha``: every interval is one of a confidence sequence, and their
error is split by a union bound.

- ``failed``, ``slow``: shares of answers by arm, of the present step alone, so that a long good
  history does not hide a fresh harm; their part of alpha is split over the steps too.
- ``shift``: the challenger's scores less the champion's on the same requests, either way.
- ``mistakes``, ``loss``: wrong decisions and loss in pairs on the same requests, once their window
  is over. A two-point difference shows within thousands of pairs; in a 5 % split it would take
  more than 60,000 answers, so a split judges failures and slowness only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from serving.rollout_plan import (
    WAITS,
    Counts,
    Decision,
    Evidence,
    Figure,
    Floats,
    Kind,
    Plan,
    State,
    Traffic,
)
from serving.sequential import BoundedMean, Interval, Moments, asymptotic_interval, difference

SEQUENCES = ("failed", "slow", "shift", "mistakes", "loss")
SPLIT = ("failed", "slow")


def look(
    plan: Plan, state: State, evidence: Evidence, approver: str = ""
) -> tuple[State, Decision]:
    """Decide on all evidence so far; an ended release stays as it is.

    ``approver``: who signed that this challenger may take all the traffic. The step to 100 %
    waits for it.
    """
    figures = tuple(_figures(plan, state, evidence))
    kind, words = _decide(plan, state, evidence, figures, approver)
    decision = Decision(
        kind=kind, step=state.step, percent=plan.percent(state.step), words=words, figures=figures
    )
    if state.ended:
        return state, decision
    after = replace(state, decisions=(*state.decisions, decision))
    if kind == "back":
        return replace(after, ended="back"), decision
    if kind == "up" and state.step == len(plan.steps):
        return replace(after, ended="done"), decision
    if kind == "up":
        return replace(after, step=state.step + 1, begun=_counts(evidence)), decision
    return after, decision


def _decide(
    plan: Plan, state: State, evidence: Evidence, figures: tuple[Figure, ...], approver: str
) -> tuple[Kind, str]:
    if state.ended:
        return ("back", "rolled back before") if state.ended == "back" else ("up", "passed before")
    harmful = [figure for figure in figures if figure.harm]
    if harmful:
        return "back", "harm beyond the limit is shown: " + _told(harmful)
    missing = _missing(plan, state, evidence)
    excluded = all(figure.safe for figure in figures)
    suspects = [figure for figure in figures if figure.suspect]
    if missing and not excluded:
        return "hold", f"the step still needs {missing}"
    if suspects:
        return "hold", "beyond the limit so far, which is not proven: " + _told(suspects)
    why = (
        "harm beyond the limits is excluded" if excluded
        else "the declared minimum is reached without evidence of harm, which is not excluded: "
        + _told(figure for figure in figures if not figure.safe)
    )  # fmt: skip
    return _upwards(plan, state, why, approver)


def _upwards(plan: Plan, state: State, why: str, approver: str) -> tuple[Kind, str]:
    if state.step == len(plan.steps):
        return "up", f"passed at 100 %: {why}"
    following = plan.percent(state.step + 1)
    if following == 100 and not approver:
        return "hold", f"{WAITS}: {why}"
    by = f", approved by {approver}" if following == 100 else ""
    return "up", f"to {following} %{by}: {why}"


def _missing(plan: Plan, state: State, evidence: Evidence) -> str:
    """What the step's declared minimum still lacks, in words."""
    alone = plan.percent(state.step) == 100
    seen = _counts(evidence)
    came = {
        "answers of the challenger": plan.requests - _challenger(state, evidence).requests,
        "pairs": 0 if alone else plan.pairs - (seen.pairs - state.begun.pairs),
        "outcomes": 0 if alone else plan.outcomes - (seen.outcomes - state.begun.outcomes),
    }
    return ", ".join(f"{count:,} {what}" for what, count in came.items() if count > 0)


def _challenger(state: State, evidence: Evidence) -> Traffic:
    """Its answers in the present step."""
    return evidence.canary.since(state.begun.canary) if state.step else evidence.shadow


def _figures(plan: Plan, state: State, evidence: Evidence) -> Iterator[Figure]:
    """A union bound: alpha is shared by the sequences, a split one's part by the steps."""
    names = [name for name in SEQUENCES if plan.bounded or name != "mistakes"]
    part = plan.alpha / len(names)
    alone = plan.percent(state.step) == 100
    # At 100 % the champion answers nothing more: its answers before stand for it.
    ours = evidence.champion if alone else evidence.champion.since(state.begun.champion)
    theirs = _challenger(state, evidence)
    for name in names:
        limit = float(getattr(plan.limits, name))
        if name in SPLIT:
            yield _split(name, ours, theirs, part / (len(plan.steps) + 1), limit)
        else:
            bounded = plan.bounded or name == "mistakes"
            yield _paired(name, getattr(evidence, name), part, limit, plan, bounded)


def _split(name: str, ours: Traffic, theirs: Traffic, alpha: float, limit: float) -> Figure:
    champion, challenger = _share(ours, name), _share(theirs, name)
    interval = difference(champion, challenger, alpha)
    mean = challenger.mean - champion.mean
    return _figure(name, theirs.requests, mean, interval, limit)


def _share(traffic: Traffic, name: str) -> BoundedMean:
    """Sequence of an arm's indicators: failed or not, slow or not."""
    events = int(getattr(traffic, name))
    return BoundedMean().update(np.repeat([1.0, 0.0], [events, traffic.requests - events]))


def _paired(
    name: str, values: Floats, alpha: float, limit: float, plan: Plan, bounded: bool
) -> Figure:
    if bounded:
        seen = BoundedMean(low=-1.0, high=1.0).update(values)
        return _figure(name, seen.count, seen.mean, seen.interval(alpha), limit)
    moments = Moments().update(values)
    interval = asymptotic_interval(moments, alpha, tuned_for=max(plan.pairs, 1_000))
    return _figure(
        name, moments.count, moments.mean if moments.count else math.nan, interval, limit
    )


def _figure(name: str, count: int, mean: float, interval: Interval, limit: float) -> Figure:
    ends = (mean, interval.low, interval.high)
    known, low, high = (end if math.isfinite(end) else None for end in ends)
    return Figure(name=name, count=count, mean=known, low=low, high=high, limit=limit)


def _counts(evidence: Evidence) -> Counts:
    return Counts(
        champion=evidence.champion,
        canary=evidence.canary,
        pairs=len(evidence.shift),
        outcomes=len(evidence.loss),
    )


def _told(figures: Iterable[Figure]) -> str:
    return "; ".join(figure.describe() for figure in figures)
