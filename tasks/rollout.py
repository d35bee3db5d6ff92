"""Releases that judge themselves: begin, look, roll back; each may be killed and run again.

A way up is written down before traffic follows it; a way back is gone before it is written down.
What a killed call left undone, the next one does first.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from feature_repo.errors import AirworthyError, CertificateError, PromotionError, StateError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import certificate
from serving.approvals import approver_of
from serving.certificate import Certificate
from serving.local_target import LocalTarget
from serving.releases import read_current
from serving.rollout import look
from serving.rollout_evidence import collect
from serving.rollout_plan import Decision, Plan, State
from serving.target import Challenger, Target
from tasks.ledger import own_trust
from tasks.promotion import back_to, point_back, promote_version
from tasks.rollout_store import Rollout, load, path_of, save, tell


def begin(
    home: Home, use_case: str, version: str, plan: Plan, target: Target, again: str = "",
    where: str = "local",
) -> Rollout:  # fmt: skip
    """Have a release under way: the challenger verified, up and in the shadow. One that is under
    way goes on where it was, by the plan that it began with. ``where``: the target's name.

    Raises:
        PromotionError: the version may not be released, another release is under way, or this one
            was rolled back and ``again`` does not ask for it.
        DeclarationError: a regression's plan says no limits in its unit.
        CertificateError: its certificate does not hold; no process was started.
        StateError: there is no champion, or a server does not become ready: rolled back.
    """
    with home.lock(f"rollout-{use_case}"):
        issued = _cleared(home, use_case, version)
        with home.lock("mlflow"):  # no promotion between its check and this
            rollout = _begun(home, use_case, issued, version, plan, again, where)
        challenger = Challenger(
            model_dir=Path(rollout.model_dir), subject=rollout.subject, version=version
        )
        try:
            target.begin(challenger)
        except AirworthyError as exc:
            _end(home, rollout, target, f"it could not be started: {exc}")
            raise
        return _settle(home, rollout, target)


def look_once(home: Home, use_case: str, target: Target) -> tuple[Rollout, Decision]:
    """One look: what a killed one decided is done, evidence gathered, decided, and done.

    Raises:
        StateError: no release has begun, or the prediction log cannot be read.
        PromotionError: 100 % are passed, and the challenger may not be promoted.
    """
    with home.lock(f"rollout-{use_case}"):
        rollout = load(home, use_case)
        if rollout is None:
            raise StateError(f"no release of {use_case} has begun; begin one with 'rollout'")
        rollout = _settle(home, rollout, target)
        if rollout.state.ended:
            return rollout, rollout.state.decisions[-1]
        observed = target.observe(rollout.plan.limits.slow_seconds)
        if observed.down:
            rollout = _end(home, rollout, target, f"the challenger is down: {observed.down}")
            return rollout, rollout.state.decisions[-1]
        evidence = collect(
            home, get_use_case(use_case), observed, rollout.since,
            datetime.now(timezone.utc), Path(rollout.champion_dir), Path(rollout.model_dir),
            rollout.plan.window,
        )  # fmt: skip
        approver, refused = _approver(home, rollout)
        state, decision = look(rollout.plan, rollout.state, evidence, approver)
        if refused and decision.kind == "hold":
            decision = replace(decision, words=f"{decision.words} ({refused})")
            state = replace(state, decisions=(*state.decisions[:-1], decision))
        if decision.kind == "back":
            target.rollback()  # first of all: the books can wait
        rollout = save(home, replace(rollout, state=state))
        return _settle(home, rollout, target), decision


def roll_back(home: Home, use_case: str, target: Target, reason: str) -> str:
    """All traffic to the champion, and of a promoted challenger to the champion before it; says
    what was done. Needs no registry, and repeating it does nothing.

    Raises:
        CertificateError: the champion before may not be served any more.
    """
    with home.lock(f"rollout-{use_case}"):
        try:
            rollout = load(home, use_case)
        except StateError:
            path_of(home, use_case).rename(path_of(home, use_case).with_suffix(".damaged"))
            rollout = None
        if rollout is None or rollout.state.ended == "back":
            target.rollback()
            return f"{use_case}: no release is under way, all traffic is the champion's"
        name, before = f"{use_case} {rollout.version}", rollout.champion_version
        if not rollout.promoted:
            _end(home, rollout, target, f"by hand: {reason}")
            return f"{name} is rolled back, {before} answers"
        champion = Path(rollout.champion_dir)
        back_to(home, use_case, champion, before)
        _end(home, rollout, target, f"by hand, after the promotion: {reason}")
        told = point_back(home, use_case, champion.name, before)
        return f"{name} is rolled back, {before} is champion again{told}"


def stop(home: Home, use_case: str) -> str:
    """End what a release left running on this machine, the proxy and the server behind it; says
    what is so now. Repeating it does nothing.

    Raises:
        PromotionError: a release is under way.
    """
    with home.lock(f"rollout-{use_case}"):
        rollout = load(home, use_case)
        if rollout is not None and not rollout.over:
            raise PromotionError(
                f"{use_case} {rollout.version} is being released: roll it back first (pyflyte run "
                f"workflows/release.py rollback --model {use_case})"
            )
        LocalTarget(home, use_case, 0, development=False).stop()
    return f"{use_case}: no proxy and no server of a release runs on this machine"


def _begun(
    home: Home, use_case: str, issued: Certificate, version: str, plan: Plan, again: str,
    where: str,
) -> Rollout:  # fmt: skip
    """The release that is under way, or a new one."""
    held, name = load(home, use_case), f"{use_case} {version}"
    same = held is not None and held.subject == issued.subject
    if held is not None and not held.over:
        if not same or held.target != where:
            raise PromotionError(
                f"{use_case} {held.version} is being released on target {held.target}; wait for "
                "its end, or roll it back"
            )
        return held
    if held is not None and same and held.state.ended == "back" and not again:
        raise PromotionError(
            f"{name} was rolled back: {held.state.decisions[-1].words}; to try it again, say "
            "why with --again"
        )
    champion, before = read_current(home, use_case)
    if champion.name == issued.subject:
        raise PromotionError(f"{name} is the champion already; release another version")
    declared = get_use_case(use_case)
    plan = plan.of(declared.task, declared.unit)
    rollout = Rollout(
        use_case=use_case, version=version, certificate=issued.id,
        model_dir=str(issued.path.parent), champion_dir=str(champion), champion_version=before,
        began=datetime.now(timezone.utc).isoformat(), again=again, target=where, plan=plan,
        state=State(),
    )  # fmt: skip
    return save(home, rollout)


def _settle(home: Home, rollout: Rollout, target: Target) -> Rollout:
    """Have the target, the ledger and the registry as the state says."""
    if rollout.state.ended == "back":
        target.rollback()
        return tell(home, rollout)
    rollout = tell(home, rollout)
    if not rollout.state.ended:
        target.shadow(True)
        target.weights(rollout.plan.percent(rollout.state.step))
        return rollout
    if not rollout.promoted:
        promote_version(home, rollout.use_case, rollout.version)
        target.promote()
        rollout = save(home, replace(rollout, promoted=True))
    return rollout


def _end(home: Home, rollout: Rollout, target: Target, words: str) -> Rollout:
    target.rollback()
    state, plan = rollout.state, rollout.plan
    decision = Decision(
        kind="back", step=state.step, percent=plan.percent(state.step), words=words, figures=()
    )
    state = replace(state, ended="back", decisions=(*state.decisions, decision))
    return tell(home, save(home, replace(rollout, state=state)))


def _approver(home: Home, rollout: Rollout) -> tuple[str, str]:
    """Who approved the release since it began; and why an approval does not count."""
    try:
        trust = own_trust(home)
        issued = certificate.read(Path(rollout.model_dir), trust)
        return approver_of(home, issued, trust, rollout.since), ""
    except CertificateError as exc:
        return "", f"the approval does not count: {exc}"


def _cleared(home: Home, use_case: str, version: str) -> Certificate:
    """The certificate of the version, if it may be released; the registry is not asked."""
    directory = directory_of(home, use_case, version)
    trust, now = own_trust(home), datetime.now(timezone.utc)
    cleared = certificate.clear(home, directory, trust, now)
    issued = cleared.certificate
    if issued.subject != directory.name:
        raise CertificateError(f"{directory} holds another model than its name says; restore it")
    if cleared.expired:
        raise PromotionError(
            f"{use_case} {version} cannot be released: its certificate expired at "
            f"{issued.expires_at.isoformat()}; run the pipeline again, which certifies it anew"
        )
    if certificate.release_statement(home, use_case, issued.subject, trust) is None:
        raise PromotionError(
            f"{use_case} {version} cannot be released to traffic: its answers were never proven; "
            "run its pipeline again, which does that"
        )
    return issued


def directory_of(home: Home, use_case: str, version: str) -> Path:
    """Directory of a certified version.

    Raises:
        PromotionError: there is none.
    """
    known = {}
    for path in sorted((home.root / "models" / use_case).glob("*/certificate.json")):
        try:
            known[str(certificate.read(path.parent).predicate.get("version"))] = path.parent
        except CertificateError:
            continue  # cannot be read: another version may be meant
    if version not in known:
        raise PromotionError(
            f"{use_case} {version} has no certificate in {home.root}; known versions: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    return known[version]
