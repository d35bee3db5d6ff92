"""The models of one server process: by name and version, loaded and swapped while others answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feature_repo.errors import RequestError
from serving.telemetry import log

if TYPE_CHECKING:
    from serving.service import Service


@dataclass(kw_only=True, slots=True)
class _Versions:
    """The versions of one model that are up; the default answers where none is named. ``named``
    are those that were loaded by their version: they stay when another becomes the default."""

    default: str
    services: dict[str, Service] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)


class Models:
    """What is served now. A change is one assignment, so a request meets the old or the new one.

    ``load(name, version)`` gives a verified, warmed service: of the champion where the version is
    empty.
    """

    def __init__(self, load: Callable[[str, str], Service]) -> None:
        self.load = load
        self._models: dict[str, _Versions] = {}
        self.draining = False

    @property
    def names(self) -> list[str]:
        """Names of the models that are up."""
        return list(self._models)

    def versions(self, name: str) -> list[str]:
        """Versions of a model that are up, the default first.

        Raises:
            RequestError: 404 no such model.
        """
        held = self._held(name)
        return [held.default, *(v for v in held.services if v != held.default)]

    def get(self, name: str, version: str = "") -> Service:
        """The service of a model's version, or of its default.

        Raises:
            RequestError: 404 there is none.
        """
        held = self._held(name)
        service = held.services.get(version or held.default)
        if service is None:
            up = ", ".join(self.versions(name))
            raise RequestError(404, "version", f"no version {version!r} of {name!r} here, but {up}")
        return service

    def put(self, service: Service, default: bool) -> list[Service]:
        """Serve a model, as the one that answers where no version is named, or beside it; the
        services that it took the place of are to be closed once their last answers are out."""
        name, version = service.name, service.version
        held = self._models.get(name) or _Versions(default=version)
        gone = [held.services[version]] if version in held.services else []
        if not default:
            held.named.add(version)
        elif held.default != version:
            if held.default in held.services and held.default not in held.named:
                gone.append(held.services.pop(held.default))
            held.default = version
        held.services[version] = service
        self._models[name] = held
        log("model up", model=name, version=version, default=held.default)
        return gone

    def remove(self, name: str, version: str = "") -> list[Service]:
        """Stop serving a version, or the whole model; the services to be closed.

        Raises:
            RequestError: 404 there is none, 409 the version is the default of several.
        """
        held = self._held(name)
        if not version:
            return list(self._models.pop(name).services.values())
        self.get(name, version)
        if version == held.default and len(held.services) > 1:
            raise RequestError(
                409, "version", f"{version} answers where no version is named; load another one "
                "as default first, or unload the whole model",
            )  # fmt: skip
        gone = [held.services.pop(version)]
        held.named.discard(version)
        if not held.services:
            del self._models[name]
        log("model down", logging.INFO, model=name, version=version)
        return gone

    def ready(self) -> bool:
        """Whether every model may answer, and the server is not stopping."""
        services = [held.services[held.default] for held in self._models.values()]
        return bool(services) and not self.draining and all(s.ready() for s in services)

    def close(self) -> None:
        """Let go of all of them."""
        for name in self.names:
            for service in self.remove(name):
                service.close()

    def _held(self, name: str) -> _Versions:
        held = self._models.get(name)
        if held is None:
            up = ", ".join(map(repr, self._models)) or "none"
            raise RequestError(404, "model", f"no model {name!r} here, only {up}")
        return held
