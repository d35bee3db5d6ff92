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
            f"no model of {use_case!r} is champion in {home.root}; run its workflow first "
            "('make demo' for flights), or name a directory with --model-dir"
        ) from exc
    except (OSError, ValueError, TypeError) as exc:
        raise StateError(f"{path} is damaged ({exc}); promote the champion again") from exc
    return home.root / current.model_dir, current.version


def check_served(home: Home, use_case: str, subject: str, version: str) -> None:
    """Hold the pointer against the champion that the ledger names: a promotion writes the ledger
    first, so one that was killed in between leaves the pointer behind.

    Raises:
        StateError: they differ, or there is no pointer.
    """
    served = read_current(home, use_case)[0].name
    if served != subject:
        raise StateError(
            f"the champion of {use_case} is {version}, subject {subject[:12]}, by the ledger, but "
            f"servers would load {served[:12]}: a promotion was cut short; promote {version} again"
        )


def _path(home: Home, use_case: str) -> Path:
    return home.root / "releases" / use_case / "current.json"
