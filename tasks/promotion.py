"""Promotion: which registered version is the champion, in MLflow and for the servers."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flytekit import task

from feature_repo.errors import CertificateError, PromotionError
from feature_repo.home import Home
from serving import certificate, ledger
from serving.releases import write_current
from tasks import rollout_store
from tasks.launch import AT_ONCE, IN_STEPS, check_promotion
from tasks.ledger import append, own_trust
from tasks.registry import (
    CHAMPION,
    GATE,
    SUBJECT,
    VERSION,
    champion_subject,
    known_versions,
    point,
    promoted,
    with_tag,
)
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.steps import step
from tasks.tracking import client
from tasks.types import State, Step

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class Promoted(NamedTuple):
    """Whether the version is the champion now, and what the step did."""

    champion: bool
    step: Step


@task(
    retries=2,
    timeout=300,
    requests=SMALL,
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def promote(state: State, use_case: str, version: str) -> Promoted:
    """Make a registered version the champion.

    Raises:
        PromotionError: it is unknown, refused, expired, revoked or changed.
    """
    with step("promote") as log:
        log.say(promote_version(state.home(), use_case, version))
    return Promoted(True, log.record)


@task(
    retries=2,
    timeout=300,
    requests=SMALL,
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def promote_released(
    state: State, use_case: str, version: str, passed: bool, promotion: str = AT_ONCE
) -> Promoted:
    """Promote what the pipeline has just released; a refused model is left where it is, and so
    is one that was champion before and has been replaced since, by a person or by a better one, and
    one that was not compared with the champion of now: another run was quicker. ``promotion``
    ``in-steps``: every one is, while there is a champion, since it meets the traffic first.

    Raises:
        TrainingError: ``promotion`` is neither ``at-once`` nor ``in-steps``.
    """
    check_promotion(promotion)
    with step("promote") as log:
        home = state.home()
        with home.lock("mlflow"):
            kept = _kept(home, use_case, version, passed, promotion)
            log.say(f"not promoted: {kept}" if kept else _promote(home, use_case, version))
    return Promoted(not kept, log.record)


def promote_version(home: Home, use_case: str, version: str) -> str:
    """Move the alias ``champion`` and the servers' pointer to a version; says what was done.

    Raises:
        PromotionError: the version is unknown, refused, expired, revoked, changed or was never
            released.
    """
    with home.lock("mlflow"):
        return _promote(home, use_case, version)


def _promote(home: Home, use_case: str, version: str) -> str:
    if other := under_way(home, use_case, version):
        raise PromotionError(f"{use_case} {version} cannot be promoted: {other}")
    mlflow = client(home)
    found = with_tag(mlflow, use_case, VERSION, version)
    if found is None:
        raise PromotionError(
            f"{use_case} {version} is not registered; known versions: "
            f"{', '.join(known_versions(mlflow, use_case)) or 'none'}"
        )
    issued = _cleared(home, use_case, version, found)
    _check_released(home, use_case, version, issued)
    before = champion_subject(mlflow, use_case)
    point(mlflow, use_case, CHAMPION, str(found.version))
    facts = {"use_case": use_case, "version": version, "certificate": issued.id}
    append(home, "promotion", issued.subject, facts, recurring=True)
    write_current(home, use_case, issued.subject, issued.path.parent, version)
    return f"{use_case} {version} {'stays' if before == issued.subject else 'is now'} champion"


def under_way(home: Home, use_case: str, version: str) -> str:
    """Which release forbids to promote a version, and the way out; nothing where none does. One
    that passed 100 % is to be promoted itself.

    Raises:
        StateError: the release's document is damaged.
    """
    held = rollout_store.load(home, use_case)
    if held is None or held.over or (held.version == version and held.state.ended == "done"):
        return ""
    command = f"pyflyte run workflows/release.py rollback --model {use_case}"
    return (
        f"{use_case} {held.version} is being released against {held.champion_version}, at "
        f"{held.plan.percent(held.state.step)} %; wait for its end, or roll it back ({command})"
    )


def back_to(home: Home, use_case: str, directory: Path, version: str) -> None:
    """Make the champion before the champion again, for the servers; the registry is not asked, and
    the certificate may have expired since the release.

    Raises:
        CertificateError: the model was revoked or changed.
    """
    issued = certificate.clear(home, directory, own_trust(home), datetime.now(timezone.utc))
    facts = {"use_case": use_case, "version": version, "certificate": issued.certificate.id}
    append(home, "promotion", issued.certificate.subject, facts, recurring=True)
    write_current(home, use_case, issued.certificate.subject, directory, version)


def point_back(home: Home, use_case: str, subject: str, version: str) -> str:
    """Let the registry's alias follow ``back_to``, where the registry answers; what to do where
    it does not, else nothing."""
    try:
        with home.lock("mlflow"):
            mlflow = client(home)
            found = with_tag(mlflow, use_case, SUBJECT, subject)
            if found is not None:
                point(mlflow, use_case, CHAMPION, str(found.version))
    except Exception as exc:  # traffic went back before: whatever ails the registry is told only
        return f"; the registry does not answer ({exc}): promote {version} again once it does"
    return ""


def _cleared(
    home: Home, use_case: str, version: str, found: ModelVersion
) -> certificate.Certificate:
    """The version's certificate, if it may be promoted."""
    name = f"{use_case} {version}"
    if found.tags.get(GATE) != "passed":
        raise PromotionError(
            f"{name} was refused by the gate and is never promoted; train a model that passes"
        )
    if any(
        e["kind"] == "retirement" and e["subject"] == found.tags[SUBJECT]
        for e in ledger.entries(home)
    ):
        raise PromotionError(
            f"{name} is retired, and the features that it reads may be gone; train a new model"
        )
    directory = home.root / "models" / use_case / found.tags[SUBJECT]
    trust, now = own_trust(home), datetime.now(timezone.utc)
    try:
        cleared = certificate.clear(home, directory, trust, now)
    except CertificateError as exc:
        raise PromotionError(f"{name} cannot be promoted: {exc}") from exc
    if cleared.certificate.subject != found.tags[SUBJECT]:
        raise PromotionError(f"{name} cannot be promoted: {directory} holds another model")
    if cleared.expired:
        raise PromotionError(
            f"{name} cannot be promoted: its certificate expired at "
            f"{cleared.certificate.expires_at.isoformat()}; run the pipeline again, which judges "
            "and certifies it anew"
        )
    return cleared.certificate


def _check_released(
    home: Home, use_case: str, version: str, issued: certificate.Certificate
) -> None:
    """What is champion is what is served, so it must have proved how it answers."""
    trust = own_trust(home)
    if certificate.release_statement(home, use_case, issued.subject, trust) is None:
        raise PromotionError(
            f"{use_case} {version} cannot be promoted: it was never released; run its pipeline "
            "again, which releases it first"
        )


def _kept(home: Home, use_case: str, version: str, passed: bool, promotion: str = AT_ONCE) -> str:
    """Why the pipeline does not promote the version; nothing where it does."""
    name = f"{use_case} {version}"
    if not passed:
        return f"{name} was refused by the gate"
    mlflow, folder = client(home), home.root / "models" / use_case
    found = with_tag(mlflow, use_case, VERSION, version)
    if found is None:
        return ""
    own = certificate.read(folder / found.tags[SUBJECT]).predicate
    models = [model for _, model in promoted(home, use_case)]
    if own["model"] in models:
        if models[-1] == own["model"]:
            return ""
        return (
            f"{name} was champion and was replaced; a person may promote it again (pyflyte run "
            f"workflows/registry.py promote_version --model {use_case} --version {version})"
        )
    champion = champion_subject(mlflow, use_case)
    if champion in ("", found.tags[SUBJECT]):
        return ""
    if other := under_way(home, use_case, version):
        return other
    if promotion == IN_STEPS:
        return (
            f"{name} is a challenger: release it (pyflyte run workflows/release.py rollout --model "
            f"{use_case} --version {version})"
        )
    if champion == own["predecessor"]:
        return ""
    other = certificate.read(folder / champion).predicate["version"]
    return (
        f"{name} was not compared with {use_case} {other}, which another run made champion in the "
        "meantime; run the pipeline again, which compares them"
    )
