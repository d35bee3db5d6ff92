"""One digest for code and the libraries that it runs on: what a cache or a stored result depends
on."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from feature_repo.errors import DeclarationError


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
            raise DeclarationError(f"code version: there is no module {module!r}")
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            digest.update(file.name.encode() + file.read_bytes())
    for library in libraries:
        digest.update(f"{library}=={version(library)}".encode())
    return digest.hexdigest()[:16]
