"""Cache versions that follow the code, the libraries and the schemas a task depends on."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from flytekit import Cache

from feature_repo.errors import DeclarationError

PACKAGES = ("feature_repo", "serving", "tasks", "workflows")


def code_cache(*modules: str, libraries: tuple[str, ...] = ()) -> Cache:
    """A Flyte cache whose version changes with the source of ``modules`` (a package counts
    with all its files) or with the version of a library."""
    return Cache(version=code_version(*modules, libraries=libraries))


@cache
def code_version(*modules: str, libraries: tuple[str, ...] = ()) -> str:
    """Digest, 16 hex digits, of the modules' sources and the libraries' versions.

    Modules are located, not imported, so naming a heavy one costs nothing.

    Raises:
        DeclarationError: a module cannot be found.
    """
    digest = hashlib.sha256()
    for module in modules:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise DeclarationError(f"cache version: there is no module {module!r}")
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            digest.update(file.name.encode() + file.read_bytes())
    for library in libraries:
        digest.update(f"{library}=={version(library)}".encode())
    return digest.hexdigest()[:16]


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
