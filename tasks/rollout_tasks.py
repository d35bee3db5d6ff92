"""The release's steps as Flyte tasks, short ones: a loop or a schedule drives the looks."""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from flytekit import Deck, task
from mashumaro.mixins.json import DataClassJSONMixin

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import approvals, certificate
from serving.dsse import signing_key
from serving.local_target import LocalTarget
from serving.rollout_plan import Limits, Plan
from serving.target import Target
from tasks import rollout as releases
from tasks import rollout_report
from tasks.ledger import append, own_trust
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.rollout_store import Rollout, load
from tasks.steps import step
from tasks.types import State


@dataclass(frozen=True)
class ReleasePlan(DataClassJSONMixin):
    """``serving.rollout_plan.Plan`` and ``Limits``, flat; see there for what each one means."""

    steps: list[int] = field(default_factory=lambda: [5, 25, 50, 100])
    requests: int = 200
    pairs: int = 200
    outcomes: int = 0
    alpha: float = 0.05
    failed_limit: float = 0.01
    slow_limit: float = 0.05
    slow_seconds: float = 0.25
    shift_limit: float = 0.05
    mistakes_limit: float = 0.005
    loss_limit: float = 0.005

    def plan(self, bounded: bool) -> Plan:
        """The plan that is kept.

        Raises:
            DeclarationError: it breaks a rule.
        """
        limits = Limits(
            failed=self.failed_limit, slow=self.slow_limit, slow_seconds=self.slow_seconds,
            shift=self.shift_limit, mistakes=self.mistakes_limit, loss=self.loss_limit,
        )  # fmt: skip
        return Plan(
            steps=tuple(self.steps), requests=self.requests, pairs=self.pairs,
            outcomes=self.outcomes, alpha=self.alpha, limits=limits, bounded=bounded,
        )  # fmt: skip


class Looked(NamedTuple):
    """What a look decided (up, hold, back), why, the percent now, and whether all is over."""

    decision: str
    words: str
    percent: int
    over: bool


def target_of(home: Home, use_case: str, port: int = 0) -> Target:
    """Where the release happens: processes of this machine, behind a proxy at ``port`` (0: where
    it listens already)."""
    development = signing_key(home).development
    return LocalTarget(home, use_case, port, development=development)


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=20), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)  # fmt: skip
def begin_release(
    state: State, use_case: str, version: str, plan: ReleasePlan, port: int, again: str
) -> str:
    """Have the challenger verified, up and in the shadow; its version.

    Raises:
        PromotionError: it may not be released, or another release is under way.
        CertificateError: its certificate does not hold.
        StateError: there is no champion, or a server does not become ready.
    """
    with step("deploy") as log:
        home = state.home()
        declared = plan.plan(get_use_case(use_case).task == "binary")
        target = target_of(home, use_case, port)
        begun = releases.begin(home, use_case, version, declared, target, again)
        log.say(f"{use_case} {version} is up beside {begun.champion_version}, asked at port {port}")
    return version


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=20), secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT, enable_deck=True, deck_fields=(),
)  # fmt: skip
def look_at_release(state: State, use_case: str, pause_seconds: float, after: bool) -> Looked:
    """One look at the release, after a pause; of one that is over, nothing but its end.
    ``after``: whether the look before found it over.

    Raises:
        StateError: no release has begun.
        PromotionError: 100 % are passed, and the challenger may not be promoted.
    """
    home = state.home()
    begun = load(home, use_case)
    if not after and begun is not None and not begun.over:
        time.sleep(pause_seconds)
    with step("look") as log:
        rollout, decision = releases.look_once(home, use_case, target_of(home, use_case))
        _show(home, rollout)
        log.say(f"{decision.kind} at {decision.percent} %: {decision.words}")
    percent = 100 if rollout.promoted else rollout.plan.percent(rollout.state.step)
    percent = 0 if rollout.state.ended == "back" else percent
    return Looked(decision.kind, decision.words, percent, rollout.over)


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
        said = releases.roll_back(home, use_case, target_of(home, use_case), reason)
        log.say(said)
    return said


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
    home = state.home()
    directory = releases.directory_of(home, use_case, version)
    issued = certificate.read(directory, own_trust(home))
    now = datetime.now(timezone.utc)
    path = approvals.approve(home, signing_key(home), issued, approver, reason, now)
    facts = {
        "use_case": use_case, "version": version, "certificate": issued.id, "approver": approver,
        "reason": reason, "approved_at": now.isoformat(),
    }  # fmt: skip
    append(home, "approval", issued.subject, facts)
    return str(path)


def _show(home: Home, rollout: Rollout) -> None:
    Deck("Release", rollout_report.content(rollout))
    rollout_report.write(home, rollout)
