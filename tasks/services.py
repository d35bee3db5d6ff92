"""Which models need which feature services, and how a service comes to its end.

A released model needs the service of the declaration that it was trained on until it is retired
or revoked; the champion always does. Older services that are needed are computed and filled with
every run of the current one, from their recorded declarations.
"""

from __future__ import annotations

import shutil
import uuid
from collections import defaultdict
from datetime import timedelta

from flytekit import task

from feature_repo.contract import UseCase
from feature_repo.errors import PromotionError, StateError
from feature_repo.home import Home, open_home
from feature_repo.online_rows import open_rows
from feature_repo.registry import get_use_case
from feature_repo.services import older_services
from serving import ledger
from serving.artifact import read_model
from serving.releases import read_current
from serving.revocations import against
from tasks.ledger import append
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.steps import step

LIFE = ("release", "promotion", "retirement")  # of a model, as the ledger tells it


def needed_by(home: Home, use_case: str) -> dict[str, list[str]]:
    """Versions of the models that need it, by feature service."""
    needed: dict[str, list[str]] = defaultdict(list)
    for subject, version in living_models(home, use_case).items():
        declaration = read_model(home.root / "models" / use_case / subject).declaration
        needed[f"{use_case}_{declaration[:12]}"].append(version)
    return dict(needed)


def living_models(home: Home, use_case: str) -> dict[str, str]:
    """Versions of the released models that are neither retired nor revoked, by subject."""
    told, newest = ledger.entries(home), {}
    revoked, contents = ledger.revocations(told).values(), ledger.contents(told)
    for entry in told:
        if entry["kind"] in LIFE and entry["facts"]["use_case"] == use_case:
            newest[entry["subject"]] = entry
    living = {}
    for subject, entry in newest.items():
        id_ = str(entry["facts"]["certificate"])
        ended = entry["kind"] == "retirement" or against(revoked, {id_}, contents.get(id_, ""))
        if not ended and (home.root / "models" / use_case / subject).is_dir():
            living[subject] = str(entry["facts"]["version"])
    return living


def living_services(home: Home, use_case: UseCase) -> list[UseCase]:
    """The recorded services of older declarations that a model still needs."""
    needed = needed_by(home, use_case.name)
    return [older for older in older_services(home, use_case) if older.service in needed]


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=10),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def retire_model(use_case: str, version: str, reason: str) -> str:
    """End a released model's life: it is no rollback target any more, and needs no features.

    Raises:
        PromotionError: it was never released, or it is the one that is served.
    """
    with step("retire"):
        return retire(open_home(), use_case, version, reason)


def retire(home: Home, use_case: str, version: str, reason: str) -> str:
    """Record a model's retirement in the ledger, once; see ``retire_model``."""
    with home.lock("mlflow"):  # no promotion makes it champion in between
        return _retire(home, use_case, version, reason)


def _retire(home: Home, use_case: str, version: str, reason: str) -> str:
    released = {
        str(e["facts"]["version"]): e
        for e in ledger.entries(home)
        if e["kind"] == "release" and e["facts"]["use_case"] == use_case
    }
    if version not in released:
        raise PromotionError(
            f"{use_case} {version} was never released; released are {', '.join(released) or 'none'}"
        )
    if read_current(home, use_case)[1] == version:
        raise PromotionError(
            f"{use_case} {version} is the champion and cannot retire; promote another version first"
        )
    entry = released[version]
    facts = {**entry["facts"], "reason": reason}
    append(home, "retirement", entry["subject"], facts, recurring=True)
    return f"{use_case} {version} is retired: {reason}"


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=10))
def remove_service(use_case: str, service: str) -> str:
    """Remove an older feature service: its versions, its online rows, its entry in Feast.

    Raises:
        StateError: the program declares it, a model needs it, or there is none.
    """
    with step("remove"):
        return remove(open_home(), get_use_case(use_case), service)


def remove(home: Home, use_case: UseCase, service: str) -> str:
    """Remove a service that no model needs; see ``remove_service``."""
    # No release and no promotion, in this order, makes a model need it in between.
    with home.lock(f"release-{use_case.name}"), home.lock("mlflow"):
        return _remove(home, use_case, service)


def _remove(home: Home, use_case: UseCase, service: str) -> str:
    from feature_repo.home import online_store
    from feature_repo.repo import forget

    known = {older.service: older for older in older_services(home, use_case)}
    if service == use_case.service:
        raise StateError(f"feature service {service!r} is what the program declares; it stays")
    if service not in known:
        raise StateError(
            f"there is no older feature service {service!r} of {use_case.name}; there is "
            f"{', '.join(known) or 'none'}"
        )
    if needing := needed_by(home, use_case.name).get(service):
        raise StateError(
            f"feature service {service!r} is needed by {use_case.name} {', '.join(needing)}; "
            "retire them first (workflows/registry.py retire_version)"
        )
    rows = open_rows(online_store(home), service)
    rows.drop()
    rows.close()
    forget(home, known[service])
    # Last, and out of sight at once: a killed removal can be repeated, or a clean-up ends it.
    place = home.root / "offline" / service
    shutil.rmtree(place.rename(place.with_name(f".{service}.{uuid.uuid4().hex}.tmp")))
    return f"{service} removed; the next clean-up frees its tables"
