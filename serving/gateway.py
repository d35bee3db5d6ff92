"""HTTP requests to answers: routes, guards, errors. Knows neither sockets nor KServe."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import orjson

from feature_repo.errors import RequestError, StateError
from serving.bodies import Headers, inflated, json_length, version_of
from serving.callers import Callers
from serving.requests import parse_v1, parse_v2
from serving.responses import JSON, MAX_SAID, Response, answer, error_body, explained
from serving.routes import INDEX, INFER, PREDICT, REPOSITORY, allowed
from serving.telemetry import log

if TYPE_CHECKING:
    from serving.enrolment import Enrolment
    from serving.metrics import Metrics
    from serving.models import Models
    from serving.service import Service
    from serving.traces import Trace, Traces


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request, and all of them together, may take.

    ``concurrent``: requests under way, from their headers to their answers; ``caller``: those of
    one caller (0: as many). ``body_seconds``: in
    which a body must have arrived; ``answer_seconds``: in which a record must be on disk. ``said``:
    the share of answers of which a line is logged; errors always are.
    """

    concurrent: int = 256
    caller: int = 0
    body_seconds: float = 10.0
    answer_seconds: float = 5.0
    said: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What a caller must send as ``authorization: Bearer …``. Empty: predictions need none, and
    the repository's requests are refused."""

    predictions: tuple[str, ...] = ()
    repository: str = ""


class Gateway:
    """Answers POST requests of one server."""

    def __init__(
        self, models: Models, metrics: Metrics, limits: Limits, tokens: Tokens,
        change: Callable[[str, str, str], Awaitable[None]], enrolment: Enrolment | None = None,
        traces: Traces | None = None,
    ) -> None:  # fmt: skip
        """``change(action, model, version)`` loads or unloads a model. ``enrolment``: of the
        experiment that is under way; ``traces``: where spans are asked for."""
        self.models = models
        self.metrics = metrics
        self.limits = limits
        self._tokens = tokens
        self._change = change
        self.enrolment = enrolment
        self.traces = traces
        self._told = 0.0
        self._callers = Callers(limits.caller, tokens.predictions) if limits.caller else None

    def respond(
        self, path: str, headers: Headers, body: bytes, began: float
    ) -> Response | Awaitable[Response]:
        """The answer, or what will be it: where a record or a model's loading is waited for."""
        if self.traces is None:
            return self._respond(path, headers, body, began, None)
        trace = self.traces.begin("POST", {"url.path": path}, headers, began)
        response = self._respond(path, headers, body, began, trace)
        trace.computed()
        if not isinstance(response, Response):
            return trace.awaited(response)
        trace.end(response.status)
        return response

    def _respond(
        self, path: str, headers: Headers, body: bytes, began: float, trace: Trace | None
    ) -> Response | Awaitable[Response]:
        try:
            if match := PREDICT.fullmatch(path):
                return self._predict("v1", match[1], "", headers, body, began, trace)
            if match := INFER.fullmatch(path):
                return self._predict("v2", match[1], match[2] or "", headers, body, began, trace)
            return self._repository(path, headers, body, began)
        except Exception as exc:
            return self.refusal("http", exc, None, began)

    def refusal(
        self, protocol: str, exc: Exception, service: Service | None, began: float
    ) -> Response:
        """What is answered to a request that failed; it is counted and logged."""
        status, field, message, retry = explained(exc)
        if service is None:
            self.metrics.refuse(protocol, status)
        else:
            service.metrics.answered(protocol, status, perf_counter() - began)
        if status != 500:  # that one was logged with its traceback
            log(
                "refused", logging.ERROR if status >= 500 else logging.WARNING, code=status,
                protocol=protocol, field=field[:MAX_SAID], reason=message[:MAX_SAID],
            )  # fmt: skip
        headers = (JSON, (b"retry-after", b"1")) if retry else (JSON,)
        return Response(status, error_body(field, message), headers)

    def nowhere(self, path: str, began: float) -> Response:
        """What is answered where nothing is, or nothing by that method."""
        methods = allowed(path)
        if not methods:
            places = "/v1/models/NAME:predict and /v2/models/NAME/infer"
            error = RequestError(404, "", f"nothing is at {path}; predictions are at {places}")
            return self.refusal("http", error, None, began)
        error = RequestError(405, "method", f"{path} answers to {methods}")
        refused = self.refusal("http", error, None, began)
        return refused._replace(headers=(*refused.headers, (b"allow", methods.encode())))

    def enter(self, headers: Headers, address: str) -> bytes | str | None:
        """Let one more request in: who is to ``leave``, where callers have shares.

        Raises:
            RequestError: 503 the server is full, 429 the caller has its share.
        """
        if self.metrics.open >= self.limits.concurrent:
            full = f"{self.limits.concurrent} requests are under way; ask again"
            raise RequestError(503, "", full)
        return None if self._callers is None else self._callers.enter(headers, address)

    def leave(self, caller: bytes | str | None) -> None:
        """A request that came in is answered."""
        if self._callers is not None and caller is not None:
            self._callers.leave(caller)

    def check_caller(self, headers: Headers) -> None:
        """Refuse a prediction to a caller without the token, where one is asked for.

        Raises:
            RequestError: 401.
        """
        if self._tokens.predictions:
            self._check_token(headers, self._tokens.predictions)

    def _check_token(self, headers: Headers, tokens: Sequence[str]) -> None:
        sent = headers.get(b"authorization", b"")
        if not any(hmac.compare_digest(sent, b"Bearer " + token.encode()) for token in tokens):
            raise RequestError(401, "authorization", "send 'authorization: Bearer TOKEN'")

    def _predict(
        self, protocol: str, name: str, version: str, headers: Headers, body: bytes, began: float,
        trace: Trace | None,
    ) -> Response | Awaitable[Response]:  # fmt: skip
        service = None
        try:
            self.check_caller(headers)
            service = self.models.get(name, version)
            if trace is not None:
                trace.served_by(service.name, service.version, service.metrics)
            header = json_length(headers, protocol)
            body = inflated(headers, body)
            request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:128]
            if protocol == "v1":
                question = parse_v1(body, service.form, service.inputs, service.now())
                said: str = ""
                binary: set[str] | bool = False
            else:
                inference = parse_v2(body, header, service.form, service.inputs, service.now())
                question, said, binary = inference.question, inference.id, inference.binary
            service.metrics.phases["parse"].add(perf_counter() - began)
            units: Sequence[str] = ()
            if self.enrolment is not None:
                service, units = self.enrolment.enrol(
                    self.models, service, headers, question, version
                )
            answers = service.ask(question, request_id)
            response = answer(protocol, service, answers, said, binary)
            waiting = service.record(answers)
            if units and self.enrolment is not None:
                waiting = self.enrolment.exposed(units, waiting)
        except Exception as exc:
            return self.refusal(protocol, exc, service, began)
        if waiting is None:
            return self._answered(protocol, service, response, began)
        return self._recorded(protocol, service, response, waiting, began)

    async def _recorded(
        self, protocol: str, service: Service, response: Response, waiting: Awaitable[None],
        began: float,
    ) -> Response:  # fmt: skip
        """The answer, once its record is on disk."""
        start = perf_counter()
        try:
            await asyncio.wait_for(waiting, self.limits.answer_seconds)
        except TimeoutError:
            late = RequestError(503, "", "the answer could not be recorded in time; ask again")
            return self.refusal(protocol, late, service, began)
        except Exception as exc:
            return self.refusal(protocol, exc, service, began)
        service.metrics.phases["record"].add(perf_counter() - start)
        return self._answered(protocol, service, response, began)

    def _answered(
        self, protocol: str, service: Service, response: Response, began: float
    ) -> Response:
        seconds = perf_counter() - began
        service.metrics.answered(protocol, response.status, seconds)
        if self.limits.said:
            self._told += self.limits.said
            if self._told >= 1.0:
                self._told -= 1.0
                log(
                    "answered", model=service.name, version=service.version, protocol=protocol,
                    seconds=round(seconds, 6),
                )  # fmt: skip
        return response

    def _repository(
        self, path: str, headers: Headers, body: bytes, began: float
    ) -> Response | Awaitable[Response]:
        if path == INDEX:
            return Response(200, orjson.dumps(index(self.models)))
        match = REPOSITORY.fullmatch(path)
        if match is None:
            return self.nowhere(path, began)
        if not self._tokens.repository:
            raise RequestError(
                403, "authorization", "this server changes no models by request: it was started "
                "without AIRWORTHY_REPOSITORY_TOKEN",
            )  # fmt: skip
        self._check_token(headers, [self._tokens.repository])
        return self._changed(match[2], match[1], version_of(inflated(headers, body)))

    async def _changed(self, action: str, name: str, version: str) -> Response:
        began = perf_counter()
        try:
            await self._change(action, name, version)
        except StateError as exc:  # what is asked for is not there: to ask again does not help
            gone = RequestError(409, "", str(exc))
            return self.refusal("repository", gone, None, began)
        except Exception as exc:
            return self.refusal("repository", exc, None, began)
        return Response(200, orjson.dumps({"name": name, action: True}))


def index(models: Models) -> list[dict[str, str]]:
    """The V2 repository's index: each version that is up."""
    return [
        {"name": name, "version": version, "state": "READY" if ready else "UNAVAILABLE"}
        for name in models.names
        for version in models.versions(name)
        for ready in [models.get(name, version).ready()]
    ]
