"""The face that KServe sees, and the process that it runs: HTTP, gRPC, signals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import uvicorn.config
import uvloop
from kserve import Model, ModelServer
from kserve.model_repository import ModelRepository
from kserve.model_server import app, args
from kserve.protocol.grpc import server as grpc_server

from serving.answers import output_types
from serving.fastpath import FastPath, tensors
from serving.grpc_face import servicer
from serving.protocol import bound
from serving.requests import MAX_BODY
from serving.telemetry import log

if TYPE_CHECKING:
    from serving.gateway import Gateway

_GRACE_SECONDS = 10


class CertifiedModel(Model):  # type: ignore[misc]  # kserve ships no types
    """A model by its name, whichever of its versions answers: metadata, readiness and gRPC."""

    def __init__(self, name: str, gateway: Gateway) -> None:
        super().__init__(name)
        self._gateway = gateway
        self.ready = True

    async def healthy(self) -> bool:
        """Ready while the server is not stopping and the feature store answers."""
        models = self._gateway.models
        return not models.draining and models.get(self.name).ready()

    def load(self) -> bool:
        """Nothing is loaded this way; the repository's requests need a token."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Request fields as V2 tensors, and the optional prediction time."""
        from serving.fastpath import metadata

        inputs: list[dict[str, Any]] = metadata(self._gateway, self.name)["inputs"]
        return inputs

    def get_output_types(self) -> list[dict[str, Any]]:
        """What a V2 answer holds."""
        return tensors(output_types(self._gateway.models.get(self.name).use_case.task))


class _Repository(ModelRepository):  # type: ignore[misc]  # kserve ships no types
    """KServe's list of models follows ours: what is loaded later has a gRPC face too."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway

    def get_model(self, name: str) -> Any:
        """The face of a model that is up."""
        if name not in self._gateway.models.names:
            return None
        if name not in self.models:
            self.models[name] = CertifiedModel(name, self._gateway)
        return self.models[name]

    def get_models(self) -> dict[str, Any]:
        """Every face."""
        return {name: self.get_model(name) for name in self._gateway.models.names}

    def unload(self, name: str) -> None:
        """KServe calls it when it stops, which is nothing to us."""


class _Server(ModelServer):  # type: ignore[misc]  # kserve ships no types
    """KServe's server, which first says that it is not ready, answers on, and only then stops."""

    def __init__(self, gateway: Gateway, drain_seconds: float, **options: Any) -> None:
        super().__init__(registered_models=_Repository(gateway), **options)
        self._gateway = gateway
        self._drain_seconds = drain_seconds

    def setup_event_loop(self) -> None:
        """Beside KServe's own: uvicorn's answer to a signal comes after ours."""
        super().setup_event_loop()
        server = self._rest_server._server
        end, server.handle_exit = server.handle_exit, self._drain
        self._end = end

    def _drain(self, sig: int, frame: Any) -> None:
        """Not ready from now on; answers go on for a while, and close their connections. A second
        signal ends it at once."""
        models = self._gateway.models
        if models.draining:
            self._end(sig, frame)
            return
        models.draining = True
        log("stopping", drain_seconds=self._drain_seconds)
        loop = self._rest_server._server.servers[0].get_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._end, sig, frame)


def run(gateway: Gateway, port: int, grpc_port: int, drain_seconds: float) -> None:
    """Serve until SIGTERM or SIGINT. ``grpc_port`` 0: no gRPC."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: FastPath(build(), gateway)
    # A class stands for its own name there; KServe has no way to say which protocol is meant.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = bound(gateway)
    uvicorn.config.WS_PROTOCOLS["auto"] = None  # nothing here speaks WebSocket
    grpc_server.InferenceServicer = servicer(gateway)
    args.grpc_max_receive_message_length = MAX_BODY
    # uvloop.install() would be undone by KServe; a policy and a fresh loop are not.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    server = _Server(
        gateway, drain_seconds, http_port=port, grpc_port=grpc_port, workers=1,
        enable_grpc=bool(grpc_port), enable_latency_logging=False, grace_period=_GRACE_SECONDS,
    )  # fmt: skip
    server.start([CertifiedModel(name, gateway) for name in gateway.models.names])
