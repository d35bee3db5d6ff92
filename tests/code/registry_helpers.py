"""A toy model's way into the registry, and what the registry then holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from judging_helpers import Judged, state_release

from feature_repo.home import Home, open_home
from serving import ledger
from tasks.registry import register_version
from tasks.tracking import client
from tasks.trust import revoke_certificate


def copy_of(home: Home, root: Path) -> Home:
    shutil.copytree(home.root, root)
    return open_home(str(root))


def directory_of(home: Home, run: Judged) -> Path:
    return home.root / "models" / "toy" / run.certified.subject


def put_in(home: Home, run: Judged) -> str:
    """Register a model, and state its release if it passed."""
    if run.certified.passed:
        state_release(home, directory_of(home, run))
    return register_version(home, "toy", directory_of(home, run), run.trained)


def versions(home: Home) -> dict[str, dict[str, str]]:
    found = client(home).search_model_versions("name = 'toy'")
    return {str(v.version): dict(v.tags) for v in found}


def aliases(home: Home) -> dict[str, str]:
    (model,) = client(home).search_registered_models("name = 'toy'")
    return {name: str(number) for name, number in model.aliases.items()}


def revoke(home: Home, certificate_id: str) -> None:
    """By the task, in the home that it opens."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRWORTHY_HOME", str(home.root))
        revoke_certificate(certificate_id=certificate_id, reason="a test")


def promotions(home: Home) -> list[str]:
    return [e["facts"]["version"] for e in ledger.entries(home) if e["kind"] == "promotion"]
