"""The outermost ASGI layer: what KServe's application does not know about versions and readiness.

POST requests are answered by the gateway here too, where the server in front is not ours (see
``serving.protocol``); all else falls through to KServe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import orjson

from feature_repo.errors import RequestError
from serving.answers import output_types
from serving.bodies import too_large
from serving.gateway import Gateway
from serving.instances import TIME
from serving.openapi import document
from serving.requests import MAX_BODY
from serving.responses import Response
from serving.routes import KSERVE, MODEL, MODEL_V1, OPENAPI, READY

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FIELD_TYPES = {"string": "BYTES", "timestamp": "BYTES", "number": "FP64"}


class FastPath:
    """``app`` wrapped."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            if (response := await self._post(scope, receive)) is not None:
                await _send(send, response)
        elif scope["method"] not in ("GET", "HEAD"):
            await _send(send, self._gateway.nowhere(scope["path"], perf_counter()))
        elif scope["path"] in KSERVE:
            await self._app({**scope, "method": "GET"}, receive, send)
        else:
            await _send(send, self._told(scope["path"]))

    async def _post(self, scope: Scope, receive: Receive) -> Response | None:
        began = perf_counter()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                return self._gateway.refusal("http", too_large(), None, began)
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        headers = {name.lower(): value for name, value in scope["headers"]}
        response = self._gateway.respond(scope["path"], headers, b"".join(parts), began)
        return response if isinstance(response, Response) else await response

    def _told(self, path: str) -> Response:
        models = self._gateway.models
        if path == READY:
            ready = models.ready()
            return Response(200 if ready else 503, orjson.dumps({"ready": ready}))
        if path == OPENAPI:
            return Response(200, orjson.dumps(document(self._gateway)))
        try:
            if match := MODEL_V1.fullmatch(path):
                return self._ready(match[1], "")
            if match := MODEL.fullmatch(path):
                name, version = match[1], match[2] or ""
                if match[3]:
                    return self._ready(name, version)
                return Response(200, orjson.dumps(metadata(self._gateway, name, version)))
        except RequestError as exc:
            return self._gateway.refusal("http", exc, None, perf_counter())
        return self._gateway.nowhere(path, perf_counter())

    def _ready(self, name: str, version: str) -> Response:
        models = self._gateway.models
        ready = models.get(name, version).ready() and not models.draining
        return Response(200 if ready else 503, orjson.dumps({"name": name, "ready": ready}))


def metadata(gateway: Gateway, name: str, version: str = "") -> dict[str, Any]:
    """The V2 metadata of a model: tensors by entity keys and request fields; the full vector's
    order is in ``parameters``.

    Raises:
        RequestError: 404 there is no such model or version.
    """
    service = gateway.models.get(name, version)
    case, inputs = service.use_case, service.inputs
    return {
        "name": name,
        "versions": gateway.models.versions(name),
        "platform": "onnxruntime",
        "inputs": tensors({f.name: _FIELD_TYPES[f.dtype] for f in case.fields} | {TIME: "BYTES"}),
        "outputs": tensors(output_types(case.task)),
        "parameters": {
            "certificate": service.certificate.id,
            "numeric": list(inputs.numeric),
            "categorical": list(inputs.categorical),
        },
    }


def tensors(types: dict[str, str]) -> list[dict[str, Any]]:
    """Descriptions of tensors [n]."""
    return [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in types.items()]


async def _send(send: Send, response: Response) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
