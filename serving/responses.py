"""Answers and errors as HTTP responses, in the same form at every place."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import orjson

from feature_repo.errors import AirworthyError, RequestError, StateError
from serving.bodies import BINARY, HEADER_LENGTH

if TYPE_CHECKING:
    from serving.answers import Answers
    from serving.service import Service

MAX_SAID = 1000
JSON = (b"content-type", b"application/json")
_FALLBACK = (b"x-airworthy-fallback", b"1")  # for a proxy, which reads no bodies
_BINARY = (b"content-type", BINARY.encode())


class Response(NamedTuple):
    """Status, body, and headers but for the length."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


def error_body(field: str, message: str) -> bytes:
    """An error as JSON. Both may quote the caller, who may have sent half a surrogate pair, or a
    megabyte."""
    told = {"field": field[:MAX_SAID], "message": message[:MAX_SAID]}
    clean = {k: v.encode("utf-8", "replace").decode() for k, v in told.items()}
    return orjson.dumps({"error": clean})


def explained(exc: Exception) -> tuple[int, str, str, bool]:
    """Status, field, message, and whether to try again soon."""
    if isinstance(exc, RequestError):
        return exc.status, exc.field, exc.message, exc.status in (429, 503)
    if isinstance(exc, StateError):
        return 503, "", str(exc), True
    if isinstance(exc, AirworthyError):
        return 409, "", str(exc), False
    # A fault of ours: logged in full, answered without internals.
    logging.getLogger("airworthy").error("request failed", exc_info=exc)
    return 500, "", "internal error; it is in the server's log", False


def answer(
    protocol: str, service: Service, answers: Answers, request_id: str, binary: set[str] | bool
) -> Response:
    """Answers in a protocol's form; ``binary``: which V2 outputs are wanted as binary data."""
    start = perf_counter()
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)
    if protocol == "v1":
        body = answers.v1()
    else:
        body, header = answers.v2(request_id, binary)
        if header is not None:
            headers = (_BINARY, (HEADER_LENGTH, b"%d" % header))
    if answers.fallback is not None:
        headers = (*headers, _FALLBACK)
    service.metrics.phases["answer"].add(perf_counter() - start)
    return Response(200, body, headers)
