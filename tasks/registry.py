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

from feature_repo.home import Home
from serving import certificate, ledger
from serving.artifact import EVALUATION
from tasks.ledger import append
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


@task(retries=2, timeout=300, requests=SMALL)
def find_champion(state: State, use_case: str, model: Folder) -> str:
    """The certified directory of the champion, or nothing when there is none; for a model that was
    champion itself, that of its predecessor: see ``champion_directory``."""
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


def champion_directory(home: Home, use_case: str, model: str) -> Path | None:
    """Directory of the champion, which ``model`` (the digest of a model folder) is compared with;
    None where there is none.

    A model that is the champion, or was, is compared with its predecessor, as it was the first
    time: so a run that comes back to it finds its certificate and its version again.
    """
    with home.lock("mlflow"):
        subject = champion_subject(client(home), use_case)
    folder = home.root / "models" / use_case
    own = [subject for subject, digest in promoted(home, use_case) if digest == model]
    subject = own[-1] if own else subject
    while subject and (folder / subject).is_dir():
        predicate = certificate.read(folder / subject).predicate
        if predicate["model"] != model:
            return folder / subject
        subject = str(predicate["predecessor"])
    return None


def promoted(home: Home, use_case: str) -> list[tuple[str, str]]:
    """Subject and model (the digest of its folder) of each champion, by the ledger, in order."""
    found = []
    for entry in ledger.entries(home):
        if entry["kind"] == "promotion" and entry["facts"]["use_case"] == use_case:
            directory = home.root / "models" / use_case / entry["subject"]
            model = certificate.read(directory).predicate["model"] if directory.is_dir() else ""
            found.append((entry["subject"], str(model)))
    return found


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
        found = with_tag(mlflow, use_case, SUBJECT, issued.subject)
        if found is None:
            _ensure_model(mlflow, use_case)
            found = mlflow.create_model_version(
                use_case, source=str(directory), run_id=run, tags=tags
            )
        for name, value in tags.items():
            if found.tags.get(name) != value:  # a renewed certificate
                mlflow.set_model_version_tag(use_case, found.version, name, value)
        newest = max(int(v.version) for v in mlflow.search_model_versions(f"name = '{use_case}'"))
        point(mlflow, use_case, CANDIDATE, str(newest))
        facts = {
            "use_case": use_case,
            "number": str(found.version),
            **{name.removeprefix("airworthy."): value for name, value in tags.items()},
        }
        append(home, "registration", issued.subject, facts)
    return str(found.version)


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


def with_tag(mlflow: Any, use_case: str, tag: str, value: str) -> ModelVersion | None:
    """The version that has a tag of this value."""
    found = mlflow.search_model_versions(f"name = '{use_case}' and tags.`{tag}` = '{value}'")
    return found[0] if found else None


def known_versions(mlflow: Any, use_case: str) -> list[str]:
    """The semantic versions of a use case."""
    return sorted(v.tags[VERSION] for v in mlflow.search_model_versions(f"name = '{use_case}'"))


def champion_subject(mlflow: Any, use_case: str) -> str:
    """The champion's subject digest; nothing before the first promotion."""
    for model in mlflow.search_registered_models(f"name = '{use_case}'"):
        number = model.aliases.get(CHAMPION)
        if number is not None:
            return str(mlflow.get_model_version(use_case, number).tags[SUBJECT])
    return ""


def point(mlflow: Any, use_case: str, alias: str, number: str) -> None:
    """Let the alias point at the version, unless it does."""
    (model,) = mlflow.search_registered_models(f"name = '{use_case}'")
    if model.aliases.get(alias) != number:
        mlflow.set_registered_model_alias(use_case, alias, number)
