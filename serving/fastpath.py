"""The outermost ASGI layer: answers predictions itself and leaves the rest to KServe.

KServe's own handlers cost ten times as much and answer 500 to bad input; metadata, liveness,
model readiness and metrics are still KServe's.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import orjson

from feature_repo.errors import RequestError, StateError
from serving.requests import MAX_BODY, parse_v1, parse_v2
from serving.service import Answer, Service
from serving.telemetry import log

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PREDICT = re.compile(r"^/v1/models/([^/]+):predict$")
_INFER = re.compile(r"^/v2/models/([^/]+)/infer$")
_MAX_DRAINED = 32 * MAX_BODY
_MAX_SAID = 1000
_JSON = [(b"content-type", b"application/json")]


class Gone(Exception):  # noqa: N818 - not an error: the client hung up before its body was read
    """The client is gone; there is nobody to answer."""


class FastPath:
    """``app`` wrapped: POSTs are answered here, or refused; other requests fall through."""

    def __init__(self, app: App, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI event stream."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif scope["path"] == "/v2/health/ready":
            ready = self._service.ready()
            await _send(send, 200 if ready else 503, orjson.dumps({"ready": ready}))
        else:
            await self._app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        try:
            status, body = 200, await self._answer(scope, receive)
        except RequestError as exc:
            status, body = exc.status, _error(exc.field, exc.message)
        except StateError as exc:
            log("cannot answer", logging.ERROR, reason=str(exc))
            status, body = 503, _error("", str(exc))
        except Gone:
            return
        except Exception:  # a fault of ours: logged in full, answered without internals
            logging.getLogger("airworthy").exception("request failed")
            status, body = 500, _error("", "internal error; it is in the server's log")
        self._service.telemetry.answered(status, time.perf_counter() - began)
        await _send(send, status, body)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        path, service = scope["path"], self._service
        v1, v2 = _PREDICT.match(path), _INFER.match(path)
        match = v1 or v2
        if match is None:
            raise RequestError(
                404, "", f"nothing is posted to {path}; predictions are at "
                f"/v1/models/{service.name}:predict and /v2/models/{service.name}/infer",
            )  # fmt: skip
        if match[1] != service.name:
            raise RequestError(404, "model", f"no model {match[1]!r} here, only {service.name!r}")
        headers = {name.lower(): value for name, value in scope["headers"]}
        _check_headers(headers)
        body = await _read(receive, headers)
        now = service.now()
        if v1:
            instances = parse_v1(body, service.use_case, now)
            return orjson.dumps(_v1(service, await service.answer(instances)))
        request_id, instances = parse_v2(body, service.use_case, now)
        return orjson.dumps(_v2(service, request_id, await service.answer(instances)))


def _check_headers(headers: dict[bytes, bytes]) -> None:
    kind, _, rest = (
        headers.get(b"content-type", b"application/json").decode("latin-1").partition(";")
    )
    charset = rest.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != "application/json" or charset not in {"", "utf-8", "utf8"}:
        raise RequestError(415, "content-type", "send application/json in UTF-8")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RequestError(415, "content-encoding", "send the body without compression")
    if b"inference-header-content-length" in headers:
        raise RequestError(
            415, "inference-header-content-length", "binary tensors are not taken; send JSON data"
        )


async def _read(receive: Receive, headers: dict[bytes, bytes]) -> bytes:
    """The body. One that is too large is read to its end and dropped, within reason: a client
    that is still sending would see a broken connection instead of the 413."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > _MAX_DRAINED:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
        if size > _MAX_DRAINED or (size > MAX_BODY and not message.get("more_body")):
            raise _too_large()
        if not message.get("more_body"):
            return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(413, "", f"the body is larger than {MAX_BODY} bytes; split the request")


def _v1(service: Service, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "model": service.name,
        "version": service.version,
        "certificate": service.certificate.id,
        "predictions": [_prediction(service, answer) for answer in answers],
    }


def _prediction(service: Service, answer: Answer) -> dict[str, Any]:
    prediction = answer.prediction
    binary = service.use_case.task == "binary"
    said: dict[str, Any] = {
        "prediction_id": prediction.id,
        "probability" if binary else "value": prediction.score,
    }
    if binary:
        said["decision"] = answer.decision
    else:
        said["unit"] = service.use_case.unit
    return {
        **said,
        "prediction_time": prediction.prediction_time.isoformat(),
        "tick": answer.tick.isoformat(),
        "stale": answer.stale,
        "ages_minutes": prediction.ages_minutes,
        "missing": answer.missing,
    }


def _v2(service: Service, request_id: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """What a V1 answer says, as the protocol has it: a tensor holds no null and a parameter is a
    string, a number or a boolean, so the ages (null: no living row) and the missing features are
    JSON texts."""
    binary, rows = service.use_case.task == "binary", [len(answers)]
    scores = [a.prediction.score for a in answers]
    ids = [a.prediction.id for a in answers]
    times = [a.prediction.prediction_time.isoformat() for a in answers]
    name = "probability" if binary else "value"
    outputs = [
        {"name": name, "datatype": "FP64", "shape": rows, "data": scores},
        {"name": "prediction_id", "datatype": "BYTES", "shape": rows, "data": ids},
        {"name": "prediction_time", "datatype": "BYTES", "shape": rows, "data": times},
        {"name": "stale", "datatype": "BOOL", "shape": rows, "data": [a.stale for a in answers]},
    ]
    if binary:
        decisions = [a.decision for a in answers]
        outputs.append({"name": "decision", "datatype": "BOOL", "shape": rows, "data": decisions})
    return {
        "id": request_id or ids[0],
        "model_name": service.name,
        "model_version": service.version,
        "outputs": outputs,
        "parameters": {
            "certificate": service.certificate.id,
            "tick": answers[0].tick.isoformat(),
            "ages_minutes": orjson.dumps([a.prediction.ages_minutes for a in answers]).decode(),
            "missing": orjson.dumps([a.missing for a in answers]).decode(),
        }
        | ({} if binary else {"unit": service.use_case.unit}),
    }


def _error(field: str, message: str) -> bytes:
    """Both may quote the caller, who may have sent half a surrogate pair or a megabyte."""
    said = {"field": field[:_MAX_SAID], "message": message[:_MAX_SAID]}
    clean = {k: v.encode("utf-8", "replace").decode() for k, v in said.items()}
    return orjson.dumps({"error": clean})


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [*_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
