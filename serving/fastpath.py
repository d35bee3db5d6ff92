"""The outermost ASGI layer: what KServe's application does not know about versions and readiness.

POST requests are answered by the gateway here too, where the server in front is not ours (see
``serving.protocol``); all else falls through to KServe.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

import orjson

from feature_repo.errors import RequestError
from serving.bodies import too_large
from serving.gateway import Gateway, Response
from serving.requests import MAX_BODY

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready)?")
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
        elif scope["method"] in ("GET", "HEAD") and (told := self._told(scope["path"])):
            await _send(send, told)
        else:
            await self._app(scope, receive, send)

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

    def _told(self, path: str) -> Response | None:
        models = self._gateway.models
        if path == "/v2/health/ready":
            ready = models.ready()
            return Response(200 if ready else 503, orjson.dumps({"ready": ready}))
        match = _MODEL.fullmatch(path)
        if match is None:
            return None
        name, version, ready_asked = match[1], match[2] or "", match[3]
        try:
            if not ready_asked:
                return Response(200, orjson.dumps(metadata(self._gateway, name, version)))
            ready = models.get(name, version).ready() and not models.draining
        except RequestError as exc:
            return self._gateway.refusal("http", exc, None, perf_counter())
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
        "inputs": tensors({f.name: _FIELD_TYPES[f.dtype] for f in case.fields} | _TIME),
        "outputs": tensors(output_types(case.task)),
        "parameters": {
            "certificate": service.certificate.id,
            "numeric": list(inputs.numeric),
            "categorical": list(inputs.categorical),
        },
    }


_TIME = {"prediction_time": "BYTES"}


def output_types(task: str) -> dict[str, str]:
    """What a V2 answer holds."""
    told = {"prediction_id": "BYTES", **_TIME, "stale": "BOOL"}
    if task == "binary":
        return {"probability": "FP64", **told, "decision": "BOOL"}
    return {"value": "FP64", **told}


def tensors(types: dict[str, str]) -> list[dict[str, Any]]:
    """Descriptions of tensors [n]."""
    return [{"name": n, "datatype": kind, "shape": [-1]} for n, kind in types.items()]


async def _send(send: Send, response: Response) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
