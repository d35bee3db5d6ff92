"""The face that KServe sees: metadata and readiness. Predictions are the fast path's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import uvloop
from kserve import Model, ModelServer
from kserve.errors import InvalidInput
from kserve.model_server import app

from serving.fastpath import FastPath

if TYPE_CHECKING:
    from serving.service import Service

_V2_TYPES = {"string": "BYTES", "timestamp": "BYTES", "number": "FP64"}


class CertifiedModel(Model):  # type: ignore[misc]  # kserve ships no types
    """A verified, warmed model under KServe's protocol."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name)
        self._service = service
        self.ready = True

    async def healthy(self) -> bool:
        """Ready while the server is not stopping and the feature store answers."""
        return bool(self.ready) and self._service.ready()

    def load(self) -> bool:
        """Nothing is loaded after the start: a model is verified once, then served."""
        return bool(self.ready)

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Not reached over HTTP.

        Raises:
            InvalidInput: always.
        """
        raise InvalidInput(f"ask over HTTP at /v1/models/{self.name}:predict")

    def get_input_types(self) -> list[dict[str, Any]]:
        """Request fields as V2 tensors, and the optional prediction time."""
        fields = {f.name: _V2_TYPES[f.dtype] for f in self._service.use_case.fields}
        return _tensors(fields | {"prediction_time": "BYTES"})

    def get_output_types(self) -> list[dict[str, Any]]:
        """What a V2 answer holds."""
        told = {"prediction_id": "BYTES", "prediction_time": "BYTES", "stale": "BOOL"}
        if self._service.use_case.task == "binary":
            return _tensors({"probability": "FP64", **told, "decision": "BOOL"})
        return _tensors({"value": "FP64", **told})


def run(service: Service, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: FastPath(build(), service)
    # uvloop.install() would be undone by KServe; a policy and a fresh loop are not.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    server = ModelServer(
        http_port=port, workers=1, enable_grpc=False, enable_latency_logging=False, grace_period=10
    )
    server.start([CertifiedModel(service)])


def _tensors(types: dict[str, str]) -> list[dict[str, Any]]:
    return [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in types.items()]
