"""Feature services of older declarations: kept up to date until no model needs them.

A feature service is named by its use case and its declaration's hash. What a program of another
declaration still has to compute is data, so it is stored beside the service's versions, in
``offline/<service>/service.json``: logs, features and the tick rule, but no function.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from feature_repo.contract import (
    Entity,
    EventLog,
    FeatureSpec,
    RawTable,
    RequestField,
    UseCase,
)
from feature_repo.errors import StateError
from feature_repo.fallback import without_fallback
from feature_repo.home import Home, write_atomically
from feature_repo.model import AuxiliaryTargets

KINDS = {
    kind.__name__: kind
    for kind in (AuxiliaryTargets, Entity, EventLog, FeatureSpec, RawTable, RequestField)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedUseCase(UseCase):
    """A use case as a program of another declaration wrote it down; it computes features only."""

    recorded: str

    @property
    def declaration(self) -> str:
        """The digest that it had."""
        return self.recorded


def record(home: Home, use_case: UseCase) -> None:
    """Write the service's document, once."""
    path = _path(home, use_case.service)
    if not path.exists():
        plain = replace(
            without_fallback(use_case),
            derived=(), slices=(), gate=(), rules=(), model=None, schemas=None,
        )  # fmt: skip
        document = {f.name: _encode(getattr(plain, f.name)) for f in fields(UseCase)}
        document["recorded"] = use_case.declaration
        write_atomically(path, json.dumps(document, indent=1).encode())


def older_services(home: Home, use_case: UseCase) -> list[UseCase]:
    """The use case's recorded services of other declarations, by name.

    Raises:
        StateError: a document is damaged.
    """
    # Just a declaration's digits: the services of "rain_daily" are none of "rain".
    digits = "[0-9a-f]" * 12
    paths = sorted((home.root / "offline").glob(f"{use_case.name}_{digits}/service.json"))
    return [_read(path) for path in paths if path.parent.name != use_case.service]


def service_named(home: Home, use_case: UseCase, service: str) -> UseCase:
    """The use case as the program declares it, or as the service of another declaration was
    recorded.

    Raises:
        StateError: there is no such service.
    """
    known = {case.service: case for case in (use_case, *older_services(home, use_case))}
    if service not in known:
        raise StateError(
            f"{use_case.name} has no feature service {service!r} in {home.root}; it has "
            f"{', '.join(known)}"
        )
    return known[service]


def _read(path: Path) -> UseCase:
    try:
        document = {name: _decode(value) for name, value in json.loads(path.read_bytes()).items()}
        return RecordedUseCase(**document)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise StateError(
            f"{path} is damaged ({exc!r}); restore it, or retire the models that need the "
            "service and remove it"
        ) from exc


def _encode(value: Any) -> Any:
    """A declaration as JSON: data classes by name, tuples as lists, spans in seconds."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__} | parts
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    return {"seconds": value.total_seconds()} if isinstance(value, timedelta) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(part) for part in value)
    if not isinstance(value, dict):
        return value
    if "seconds" in value:
        return timedelta(seconds=value["seconds"])
    parts = {name: _decode(part) for name, part in value.items() if name != "kind"}
    return KINDS[value["kind"]](**parts)


def _path(home: Home, service: str) -> Path:
    return home.path("offline", service, "service.json")
