"""Which model of a use case is served: the pointer that a restarting server follows.

``releases/<use case>/current.json`` names a model directory and nothing that must be believed:
whatever it points to is verified by its certificate before it is loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from feature_repo.errors import StateError
from feature_repo.home import Home, write_atomically


@dataclass(frozen=True, kw_only=True, slots=True)
class Current:
    """The model that is served: its subject digest, its directory in the home, its version."""

    subject: str
    model_dir: str
    version: str


def write_current(home: Home, use_case: str, subject: str, model_dir: Path, version: str) -> None:
    """Point the use case's pointer at a model directory, atomically; a promotion does so."""
    where = model_dir.resolve()
    inside = where.is_relative_to(home.root)
    place = str(where.relative_to(home.root) if inside else where)
    current = Current(subject=subject, model_dir=place, version=version)
    write_atomically(_path(home, use_case), json.dumps(asdict(current), indent=1).encode())


def read_current(home: Home, use_case: str) -> tuple[Path, str]:
    """Directory and version of the model that is served.

    Raises:
        StateError: nothing was promoted yet, or the pointer is damaged.
    """
    path = _path(home, use_case)
    try:
        current = Current(**json.loads(path.read_bytes()))
    except FileNotFoundError as exc:
        raise StateError(
            f"no model of {use_case!r} is released in {home.root}; run its workflow first "
            "('make demo' for flights), or name a directory with --model-dir"
        ) from exc
    except (OSError, ValueError, TypeError) as exc:
        raise StateError(f"{path} is damaged ({exc}); promote the champion again") from exc
    return home.root / current.model_dir, current.version


def _path(home: Home, use_case: str) -> Path:
    return home.root / "releases" / use_case / "current.json"
