"""The release's steps as Flyte tasks, short ones: a loop or a schedule drives the looks."""

import time
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from flytekit import Deck, task

from feature_repo.home import Home
from serving import approvals, certificate
from serving.dsse import signing_key
from serving.rollout_plan import Decision, Plan
from tasks import rollout as releases
from tasks import rollout_report
from tasks.ledger import append, own_trust
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.rollout_store import Rollout, load
from tasks.rollout_targets import LOCAL, target_of, target_under_way
from tasks.steps import step
from tasks.types import State


class Looked(NamedTuple):
    """What a look decided (up, hold, back), why, the percent now, where the release stands in
    words, whether it is over, and whether it is or nothing but an approval is missing."""

    decision: str
    words: str
    percent: int
    stands: str
    over: bool
    done: bool


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=20), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)  # fmt: skip
def begin_release(
    state: State, use_case: str, version: str, plan: Plan, port: int, again: str, target: str
) -> str:
    """Have the challenger verified, up and in the shadow; its version.

    Raises:
        DeclarationError: there is no such target.
        PromotionError: it may not be released, or another release is under way.
        CertificateError: its certificate does not hold.
        StateError: there is no champion, or a server does not become ready.
    """
    with step("deploy") as log:
        home = state.home()
        where = target_of(home, use_case, target, port)
        begun = releases.begin(home, use_case, version, plan, where, again, target)
        at = f", asked at port {port}" if target == LOCAL else ""
        log.say(f"{use_case} {version} is up beside {begun.champion_version}{at}")
    return version


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=20), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT, enable_deck=True, deck_fields=(),
)  # fmt: skip
def look_at_release(state: State, use_case: str, pause_seconds: float, after: bool) -> Looked:
    """One look at the release, after a pause. ``after``: the look before found nothing more to
    look for, so what it found is told again.

    Raises:
        StateError: no release has begun.
        PromotionError: 100 % are passed, and the challenger may not be promoted.
    """
    home = state.home()
    begun = load(home, use_case)
    if after and begun is not None:
        return _looked(begun, begun.state.decisions[-1])
    if begun is not None and not begun.over:
        time.sleep(pause_seconds)
    with step("look") as log:
        rollout, decision = releases.look_once(home, use_case, target_under_way(home, use_case))
        _show(home, rollout)
        log.say(f"{decision.kind} at {decision.percent} %: {decision.words}")
        if decision.waits or rollout.over:
            log.say(_stands(rollout))
    return _looked(rollout, decision)


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=20), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)  # fmt: skip
def roll_back_release(use_case: str, reason: str, state: State) -> str:
    """All traffic back to the champion; says what was done.

    Raises:
        CertificateError: the champion before may not be served any more.
    """
    with step("rollback") as log:
        home = state.home()
        said = releases.roll_back(home, use_case, target_under_way(home, use_case), reason)
        if (rolled := load(home, use_case)) is not None:
            rollout_report.write(home, rolled)
        log.say(said)
    return said


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=5))
def stop_release(state: State, use_case: str) -> str:
    """End the proxy and the servers of a release that is over; says so.

    Raises:
        PromotionError: it is under way.
    """
    return releases.stop(state.home(), use_case)


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=5), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)  # fmt: skip
def approve_release(state: State, use_case: str, version: str, approver: str, reason: str) -> str:
    """Sign that a person lets this version take all the traffic; the statement's file.

    Raises:
        DeclarationError: nobody is named.
        PromotionError: there is no such version.
    """
    with step("approve") as log:
        home = state.home()
        directory = releases.directory_of(home, use_case, version)
        issued = certificate.read(directory, own_trust(home))
        now = datetime.now(timezone.utc)
        path = approvals.approve(home, signing_key(home), issued, approver, reason, now)
        facts = {
            "use_case": use_case, "version": version, "certificate": issued.id,
            "approver": approver, "reason": reason, "approved_at": now.isoformat(),
        }  # fmt: skip
        append(home, "approval", issued.subject, facts)
        begun = load(home, use_case)
        counts = begun is not None and begun.version == version and not begun.over
        after = "the next look goes on" if counts else "it counts for no release that begins later"
        log.say(f"{approver} lets {use_case} {version} take all the traffic: {after}")
    return str(path)


def _show(home: Home, rollout: Rollout) -> None:
    Deck("Release", rollout_report.content(rollout))
    rollout_report.write(home, rollout)


def _looked(rollout: Rollout, decision: Decision) -> Looked:
    percent = 100 if rollout.promoted else rollout.plan.percent(rollout.state.step)
    percent = 0 if rollout.state.ended == "back" else percent
    done = rollout.over or decision.waits
    return Looked(decision.kind, decision.words, percent, _stands(rollout), rollout.over, done)


def _stands(rollout: Rollout) -> str:
    """Where the release stands, and what a person may do."""
    name, state = f"{rollout.use_case} {rollout.version}", rollout.state
    if state.ended == "back":
        return f"{name} is rolled back, {rollout.champion_version} answers"
    if rollout.promoted:
        return f"{name} is champion"
    command = "pyflyte run workflows/release.py"
    if state.decisions and state.decisions[-1].waits:
        return (
            f"{name} waits for an approval: {command} approve --model {rollout.use_case} --version "
            f"{rollout.version} --approver YOU"
        )
    at = rollout.plan.percent(state.step)
    return f"{name} is at {at} %; it goes on with {command} look --model {rollout.use_case}"
