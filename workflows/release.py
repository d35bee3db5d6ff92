"""Releases that judge themselves: shadow, canary in steps, approval, promotion; the way back."""

from datetime import timedelta

from flytekit import dynamic, wait_for_input, workflow

from tasks.resources import SMALL
from tasks.rollout_tasks import (
    Looked,
    ReleasePlan,
    approve_release,
    begin_release,
    look_at_release,
    roll_back_release,
)
from tasks.state import open_state
from tasks.types import State

PLAN = ReleasePlan()


@dynamic(requests=SMALL, retries=1, timeout=timedelta(days=8))
def watch(state: State, use_case: str, version: str, looks: int, pause_seconds: float) -> bool:
    """That many looks, one task each; whether the release is over. ``version`` has begun."""
    over = False
    for _ in range(looks):
        looked = look_at_release(
            state=state, use_case=use_case, pause_seconds=pause_seconds, after=over
        )
        over = looked.over
    return over


@workflow
def rollout(
    model: str,
    version: str,
    plan: ReleasePlan = PLAN,
    looks: int = 60,
    pause_seconds: float = 60.0,
    port: int = 8090,
    again: str = "",
) -> bool:
    """Release a challenger on this machine: callers ask ``port``; whether it is over by the last
    look. Stopped or killed, the same command goes on where it was.

    Args:
        model: a use case, for example flights.
        version: a certified, released version that is not the champion.
        plan: steps, minima and limits; those left out have the declared values.
        looks: how many.
        pause_seconds: before each.
        port: where callers ask, with the header x-entity-key.
        again: why, where it was rolled back before.
    """
    opened = open_state(use_case=model)
    begun = begin_release(
        state=opened.state, use_case=model, version=version, plan=plan, port=port, again=again
    )
    return watch(
        state=opened.state, use_case=model, version=begun, looks=looks, pause_seconds=pause_seconds
    )


@workflow
def look(model: str) -> Looked:
    """One look at the release that is under way: for a schedule.

    Args:
        model: a use case, for example flights.
    """
    opened = open_state(use_case=model)
    return look_at_release(state=opened.state, use_case=model, pause_seconds=0.0, after=False)


@workflow
def approve(model: str, version: str, approver: str, reason: str = "") -> str:
    """Sign that this version may take all the traffic, in the approver's name.

    Args:
        model: a use case, for example flights.
        version: the one that is being released.
        approver: a name or an address, kept in the statement and the ledger.
        reason: kept beside it.
    """
    opened = open_state(use_case=model)
    return approve_release(
        state=opened.state, use_case=model, version=version, approver=approver, reason=reason
    )


@workflow
def rollback(model: str, reason: str = "asked for") -> str:
    """All traffic back to the champion; after a promotion, to the champion before. Needs no
    registry, and may be repeated.

    Args:
        model: a use case, for example flights.
        reason: kept in the ledger.
    """
    opened = open_state(use_case=model)
    return roll_back_release(state=opened.state, use_case=model, reason=reason)


@workflow
def gated_rollout(
    model: str,
    version: str,
    plan: ReleasePlan = PLAN,
    looks: int = 60,
    pause_seconds: float = 60.0,
    port: int = 8090,
) -> bool:
    """``rollout`` with a gate node, for a cluster: after half the looks it waits up to a week for
    the approver's name, signs the approval in it, and goes on to 100 %.

    Args:
        model: a use case, for example flights.
        version: a certified, released version that is not the champion.
        plan: as in ``rollout``.
        looks: before the gate, and again after it.
        pause_seconds: before each.
        port: as in ``rollout``.
    """
    opened = open_state(use_case=model)
    begun = begin_release(
        state=opened.state, use_case=model, version=version, plan=plan, port=port, again=""
    )
    first = watch(
        state=opened.state, use_case=model, version=begun, looks=looks, pause_seconds=pause_seconds
    )
    approver = wait_for_input("approver", timeout=timedelta(days=7), expected_type=str)
    signed = approve_release(
        state=opened.state, use_case=model, version=version, approver=approver, reason="gate node"
    )
    last = watch(
        state=opened.state, use_case=model, version=begun, looks=looks, pause_seconds=pause_seconds
    )
    _ = first >> approver
    _ = signed >> last
    return last
