"""Releases that judge themselves: shadow, canary in steps, approval, promotion; the way back."""

from datetime import timedelta

from flytekit import dynamic, wait_for_input, workflow

from serving.rollout_plan import Plan
from tasks.resources import SMALL
from tasks.rollout_tasks import (
    Looked,
    approve_release,
    begin_release,
    look_at_release,
    roll_back_release,
    stop_release,
)
from tasks.state import open_state
from tasks.types import State

PLAN = Plan()


@dynamic(requests=SMALL, retries=1, timeout=timedelta(days=8))
def watch(
    state: State, use_case: str, version: str, looks: int, pause_seconds: float, gate: bool
) -> str:
    """That many looks, one task each; where the release stands. ``version`` has begun.
    ``gate``: no further than to where nothing but an approval is missing."""
    stands, after = "no look was made", False
    for _ in range(looks):
        looked = look_at_release(
            state=state, use_case=use_case, pause_seconds=pause_seconds, after=after
        )
        stands = looked.stands
        after = looked.done if gate else looked.over
    return stands


@workflow
def rollout(
    model: str,
    version: str,
    plan: Plan = PLAN,
    looks: int = 60,
    pause_seconds: float = 60.0,
    port: int = 8090,
    again: str = "",
    target: str = "local",
) -> str:
    """Release a challenger; where it stands after the last look. On this machine callers ask
    ``port``. Stopped or killed, the same command goes on where it was.

    Args:
        model: a use case, for example flights.
        version: a certified, released version that is not the champion.
        plan: steps, minima and limits; those left out have the declared values.
        looks: how many.
        pause_seconds: before each.
        port: where callers ask, with the header x-entity-key.
        again: why, where it was rolled back before.
        target: local, or cluster: its InferenceService in the configured cluster.
    """
    opened = open_state(use_case=model)
    begun = begin_release(
        state=opened.state, use_case=model, version=version, plan=plan, port=port, again=again,
        target=target,
    )  # fmt: skip
    return watch(
        state=opened.state, use_case=model, version=begun, looks=looks,
        pause_seconds=pause_seconds, gate=False,
    )  # fmt: skip


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
def stop(model: str) -> str:
    """End the proxy and the server that a release on this machine leaves up when it is over.

    Args:
        model: a use case, for example flights.
    """
    opened = open_state(use_case=model)
    return stop_release(state=opened.state, use_case=model)


@workflow
def gated_rollout(
    model: str,
    version: str,
    plan: Plan = PLAN,
    looks: int = 60,
    pause_seconds: float = 60.0,
    port: int = 8090,
    target: str = "local",
) -> str:
    """``rollout`` with a gate node, for a cluster: once nothing but an approval is missing (or all
    looks are made) it waits up to a week for the approver's name, signs the approval in it, and
    goes on to 100 %. Run here, it asks for the name at the terminal.

    Args:
        model: a use case, for example flights.
        version: a certified, released version that is not the champion.
        plan: as in ``rollout``.
        looks: at most, before the gate, and again after it.
        pause_seconds: before each.
        port: as in ``rollout``.
        target: as in ``rollout``.
    """
    opened = open_state(use_case=model)
    begun = begin_release(
        state=opened.state, use_case=model, version=version, plan=plan, port=port, again="",
        target=target,
    )  # fmt: skip
    first = watch(
        state=opened.state, use_case=model, version=begun, looks=looks,
        pause_seconds=pause_seconds, gate=True,
    )  # fmt: skip
    approver = wait_for_input("approver", timeout=timedelta(days=7), expected_type=str)
    signed = approve_release(
        state=opened.state, use_case=model, version=version, approver=approver, reason="gate node"
    )
    last = watch(
        state=opened.state, use_case=model, version=begun, looks=looks,
        pause_seconds=pause_seconds, gate=False,
    )  # fmt: skip
    _ = first >> approver
    _ = signed >> last
    return last
