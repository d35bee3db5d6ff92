"""The model registry: MLflow versions, tags and aliases, healed by running again.

A version is created with all its tags in one call, so no half-registered one exists. Aliases:
``candidate`` is the newest registered, ``champion`` the one that was promoted. The truth about a
model is its certificate; tags are copies for people and searches.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flytekit import task

from feature_repo.errors import CertificateError, PromotionError
from feature_repo.home import Home
from serving import certificate, ledger
from serving.artifact import EVALUATION
from serving.releases import write_current
from tasks.ledger import append, own_trust
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.steps import step
from tasks.tracking import client, run_of, tag_execution
from tasks.types import Certified, Folder, State, Step

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CANDIDATE = "champion", "candidate"
SUBJECT, CERTIFICATE = "airworthy.subject", "airworthy.certificate"
VERSION, GATE = "airworthy.version", "airworthy.gate"


class Registered(NamedTuple):
    """MLflow's version number, and what the step did."""

    number: str
    step: Step


class Promoted(NamedTuple):
    """Whether the version is the champion now, and what the step did."""

    champion: bool
    step: Step


@task(retries=2, timeout=300, requests=SMALL)
def find_champion(state: State, use_case: str, model: Folder) -> str:
    """The champion's certified directory, or nothing when there is none.

    When the champion is this very model, its predecessor: so a repeated run compares with the
    same model as the first time.
    """
    found = champion_directory(state.home(), use_case, model.digest)
    return str(found) if found else ""


@task(
    retries=2,
    timeout=600,
    requests=SMALL,
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def register(
    state: State, use_case: str, certified: Certified, trained: Folder, execution: str = ""
) -> Registered:
    """Register a certified model under the run that trained it; a refused one as refused."""
    with step("register") as log:
        number = register_version(
            state.home(), use_case, Path(certified.model_dir), trained, execution
        )
        word = "passed" if certified.passed else "refused"
        log.say(f"{use_case} {certified.version} is MLflow version {number}, gate {word}")
    return Registered(number, log.record)


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
def promote_released(state: State, use_case: str, version: str, passed: bool) -> Promoted:
    """Promote what the pipeline has just released; a refused model is left where it is, and so
    is one that was champion before and has been replaced since (a person did that), and one that
    was not compared with the champion of now: another run was quicker."""
    with step("promote") as log:
        home = state.home()
        with home.lock("mlflow"):
            kept = _kept(home, use_case, version, passed)
            log.say(f"{kept}: the champion stays" if kept else _promote(home, use_case, version))
    return Promoted(not kept, log.record)


def champion_directory(home: Home, use_case: str, model: str) -> Path | None:
    """Directory of the champion, or of its predecessor when ``model`` (the digest of a model
    folder) is the champion's; None where there is none."""
    with home.lock("mlflow"):
        subject = _champion_subject(client(home), use_case)
    folder = home.root / "models" / use_case
    while subject and (folder / subject).is_dir():
        predicate = certificate.read(folder / subject).predicate
        if predicate["model"] != model:
            return folder / subject
        subject = str(predicate["predecessor"])
    return None


def register_version(
    home: Home, use_case: str, directory: Path, trained: Folder, execution: str = ""
) -> str:
    """Register the model in ``directory`` once, and tag its run with the execution, if one is
    named; returns MLflow's version number."""
    issued = certificate.read(directory)
    passed = bool(issued.predicate["gate"]["passed"])
    tags = {
        SUBJECT: issued.subject,
        CERTIFICATE: issued.id,
        VERSION: str(issued.predicate["version"]),
        GATE: "passed" if passed else "refused",
    }
    with home.lock("mlflow"):
        mlflow = client(home)
        run = run_of(mlflow, home, use_case, trained)
        if execution:
            tag_execution(mlflow, run, execution)
        _attach(mlflow, run, directory, issued.subject)
        found = _with_tag(mlflow, use_case, SUBJECT, issued.subject)
        if found is None:
            _ensure_model(mlflow, use_case)
            found = mlflow.create_model_version(
                use_case, source=str(directory), run_id=run, tags=tags
            )
        for name, value in tags.items():
            if found.tags.get(name) != value:  # a renewed certificate
                mlflow.set_model_version_tag(use_case, found.version, name, value)
        newest = max(int(v.version) for v in mlflow.search_model_versions(f"name = '{use_case}'"))
        _point(mlflow, use_case, CANDIDATE, str(newest))
        facts = {
            "use_case": use_case,
            "number": str(found.version),
            **{name.removeprefix("airworthy."): value for name, value in tags.items()},
        }
        append(home, "registration", issued.subject, facts)
    return str(found.version)


def promote_version(home: Home, use_case: str, version: str) -> str:
    """Move the alias ``champion`` and the servers' pointer to a version; says what was done.

    Raises:
        PromotionError: the version is unknown, refused, expired, revoked, changed or was never
            released.
    """
    with home.lock("mlflow"):
        return _promote(home, use_case, version)


def _promote(home: Home, use_case: str, version: str) -> str:
    mlflow = client(home)
    found = _with_tag(mlflow, use_case, VERSION, version)
    if found is None:
        raise PromotionError(
            f"{use_case} {version} is not registered; known versions: "
            f"{', '.join(_known(mlflow, use_case)) or 'none'}"
        )
    issued = _cleared(home, use_case, version, found)
    _check_released(home, use_case, version, issued)
    before = _champion_subject(mlflow, use_case)
    _point(mlflow, use_case, CHAMPION, str(found.version))
    facts = {"use_case": use_case, "version": version, "certificate": issued.id}
    append(home, "promotion", issued.subject, facts, recurring=True)
    write_current(home, use_case, issued.subject, issued.path.parent, version)
    return f"{use_case} {version} {'stays' if before == issued.subject else 'is now'} champion"


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


def _kept(home: Home, use_case: str, version: str, passed: bool) -> str:
    """Why the pipeline does not promote the version; nothing where it does."""
    name = f"{use_case} {version}"
    if not passed:
        return f"{name} was refused by the gate"
    if _replaced(home, use_case, version):
        return f"{name} was champion and was replaced"
    mlflow = client(home)
    found, champion = (
        _with_tag(mlflow, use_case, VERSION, version), _champion_subject(mlflow, use_case),
    )  # fmt: skip
    if found is None or champion in ("", found.tags[SUBJECT]):
        return ""
    folder = home.root / "models" / use_case
    if champion == certificate.read(folder / found.tags[SUBJECT]).predicate["predecessor"]:
        return ""
    other = certificate.read(folder / champion).predicate["version"]
    return (
        f"{name} was not compared with {use_case} {other}, which another run made champion in the "
        "meantime; run the pipeline again, which compares them"
    )


def _replaced(home: Home, use_case: str, version: str) -> bool:
    """Whether the version was promoted once and another one was promoted after it."""
    promoted = [
        e["facts"]["version"]
        for e in ledger.entries(home)
        if e["kind"] == "promotion" and e["facts"]["use_case"] == use_case
    ]
    return version in promoted and promoted[-1] != version


def _attach(mlflow: Any, run: str, directory: Path, subject: str) -> None:
    """Give the training's run the test metrics, the card and the pictures, once a subject."""
    from mlflow.entities import Metric

    folder = f"certified/{subject[:12]}"
    if mlflow.get_run(run).data.tags.get(SUBJECT) == subject:
        return
    test = json.loads((directory / EVALUATION).read_bytes())["test"]
    now = int(datetime.now(timezone.utc).timestamp() * 1000)
    measured = [Metric(f"test_{k}", v, now, 0) for k, v in test.items() if isinstance(v, float)]
    mlflow.log_batch(run, metrics=measured)
    for path in sorted(p for p in directory.iterdir() if p.suffix in {".md", ".html", ".png"}):
        mlflow.log_artifact(run, str(path), folder)
    mlflow.log_artifact(run, str(directory / EVALUATION), folder)
    mlflow.set_tag(run, SUBJECT, subject)


def _ensure_model(mlflow: Any, use_case: str) -> None:
    if not mlflow.search_registered_models(f"name = '{use_case}'"):
        mlflow.create_registered_model(use_case)


def _with_tag(mlflow: Any, use_case: str, tag: str, value: str) -> ModelVersion | None:
    found = mlflow.search_model_versions(f"name = '{use_case}' and tags.`{tag}` = '{value}'")
    return found[0] if found else None


def _known(mlflow: Any, use_case: str) -> list[str]:
    return sorted(v.tags[VERSION] for v in mlflow.search_model_versions(f"name = '{use_case}'"))


def _champion_subject(mlflow: Any, use_case: str) -> str:
    for model in mlflow.search_registered_models(f"name = '{use_case}'"):
        number = model.aliases.get(CHAMPION)
        if number is not None:
            return str(mlflow.get_model_version(use_case, number).tags[SUBJECT])
    return ""


def _point(mlflow: Any, use_case: str, alias: str, number: str) -> None:
    """Let the alias point at the version, unless it does."""
    (model,) = mlflow.search_registered_models(f"name = '{use_case}'")
    if model.aliases.get(alias) != number:
        mlflow.set_registered_model_alias(use_case, alias, number)
