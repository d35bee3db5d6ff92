"""Cache versions that follow the code, the libraries and the schemas a task depends on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from flytekit import Cache

from feature_repo.code_version import code_version

PACKAGES = ("feature_repo", "serving", "tasks", "workflows")


def code_cache(*modules: str, libraries: tuple[str, ...] = ()) -> Cache:
    """A Flyte cache whose version changes with the source of ``modules`` (a package counts
    with all its files) or with the version of a library."""
    return Cache(version=code_version(*modules, libraries=libraries))


def source_version() -> str:
    """Digest of all our packages, and git's commit where there is one."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{code_version(*PACKAGES)}+{commit[:12]}" if commit else code_version(*PACKAGES)
