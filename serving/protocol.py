"""POST requests answered where they are parsed: in uvicorn's HTTP protocol, below ASGI.

An ASGI call costs a task, an event, two coroutines and as many writes; a prediction is one
computation, so it is made when the last byte of its body has come, and written at once. All
other requests go uvicorn's way, and end in KServe's application.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from feature_repo.errors import RequestError
from serving.bodies import too_large
from serving.requests import MAX_BODY
from serving.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from serving.gateway import Gateway

_MAX_DRAINED = 32 * MAX_BODY
_MAX_HEAD = 64 * 1024  # bytes of a request line and headers; what one read holds may pass it once
_SWEEP_SECONDS = 1.0
_LINGER_SECONDS = 1.0


class _Nothing:
    """What uvicorn wakes when a connection ends; here nobody waits."""

    def set(self) -> None:
        """Nothing."""


_NOTHING = _Nothing()


class Exchange:
    """One POST and its answer. The names of its state are those that uvicorn reads."""

    __slots__ = (
        "answering", "began", "body", "caller", "disconnected", "fault", "headers", "keep_alive",
        "message_event", "more_body", "path", "response_complete", "size",
    )  # fmt: skip

    def __init__(self, path: str, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.began = perf_counter()
        self.path = path
        self.headers = headers
        self.body: list[bytes] = []
        self.size = 0
        self.fault: RequestError | None = None
        self.answering = False
        self.caller: bytes | str | None = None
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOTHING


class _Sweeper:
    """Looks for late bodies now and then: a timer for each request would cost every request."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        """Sweep from now on."""
        if not self._begun:
            self._begun = True
            self._loop, self._connections = loop, connections
            loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        now = perf_counter()
        for connection in list(self._connections):
            give_up = getattr(connection, "give_up", None)
            if give_up is not None:
                give_up(now)
        self._loop.call_later(_SWEEP_SECONDS, self._sweep)


class Protocol(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn's types are skipped
    """uvicorn's protocol with POST requests answered by ``gateway``; see ``bound``."""

    gateway: Gateway
    sweeper: _Sweeper
    cycle: Any
    _head = 0  # bytes of a head that is not complete; far below zero within a body
    _broken = False
    _seen: Any = _NOTHING  # the request after which something has been waited for
    _seen_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.sweeper.begin(self.loop, self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in (self.cycle, *(queued for queued, _ in self.pipeline)):
            if isinstance(cycle, Exchange) and not cycle.answering:
                self._close(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        self._head += len(data)
        super().data_received(data)
        if self._head > _MAX_HEAD and not self._broken:
            self._refuse(431, f"request line and headers are larger than {_MAX_HEAD} bytes")

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP; answered after the requests that came before them."""
        self._refuse(400, "this is no request of HTTP/1.1, or a head or a chunk of it is malformed")

    def _refuse(self, status: int, message: str) -> None:
        """The last answer of a connection whose bytes cannot be read on."""
        self._broken = True
        cycle = self.cycle
        if not isinstance(cycle, Exchange) or not cycle.more_body or cycle.response_complete:
            cycle = self.cycle = Exchange("", {}, keep_alive=False)
            self.gateway.metrics.open += 1
        cycle.keep_alive = cycle.more_body = False
        cycle.fault = RequestError(status, "", message)
        self._answer_in_turn(cycle)

    def pause_writing(self) -> None:
        """A caller that does not read its answers is not read from, see ``give_up``."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()

    def on_headers_complete(self) -> None:
        self._head = -_MAX_DRAINED  # trailers and the forms of chunks are bounded by that
        if self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        headers = dict(self.headers)
        path = self.url.partition(b"?")[0].decode("latin-1")
        if "%" in path:  # some clients quote the colon of ":predict"
            path = unquote(path)
        before, cycle = self.cycle, Exchange(path, headers, keep_alive)
        try:
            cycle.caller = self.gateway.enter(headers, self.client[0] if self.client else "")
        except RequestError as exc:
            cycle.fault = exc
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > MAX_BODY:
            cycle.fault = too_large()
            if int(declared) > _MAX_DRAINED:
                cycle.keep_alive = False
        self.gateway.metrics.open += 1
        self.cycle = cycle
        free = before is None or before.response_complete
        if self.expect_100_continue and cycle.fault is None and free:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if declared.isdigit() and int(declared) > _MAX_DRAINED and free:
            self._answer(cycle)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
            return
        cycle.size += len(body)
        if cycle.size > MAX_BODY:
            # Read to its end and dropped, within reason: a client that is still sending would
            # see a broken connection instead of the 413.
            cycle.fault = cycle.fault or too_large()
            cycle.body.clear()
            if cycle.size > _MAX_DRAINED:
                self.transport.close()
        elif cycle.fault is None:
            cycle.body.append(body)

    def on_message_complete(self) -> None:
        self._head = 0
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
            return
        cycle.more_body = False
        if not cycle.response_complete:
            self._answer_in_turn(cycle)

    def _answer_in_turn(self, cycle: Exchange) -> None:
        if self.pipeline or self._under_way(cycle):
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            self._answer(cycle)

    def _under_way(self, cycle: Exchange) -> bool:
        """Whether the answer to an earlier request of this connection is not out yet."""
        last = getattr(self, "_last", None)
        return last is not None and last is not cycle and not last.response_complete

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._last = cycle
        if isinstance(cycle, Exchange):
            self._answer(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: Exchange) -> None:
        self._last = cycle
        cycle.answering = True
        if cycle.fault is not None:
            self._write(cycle, self.gateway.refusal("http", cycle.fault, None, cycle.began))
            return
        body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
        response = self.gateway.respond(cycle.path, cycle.headers, body, cycle.began)
        if isinstance(response, Response):
            self._write(cycle, response)
            return
        task = self.loop.create_task(self._later(cycle, response))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _later(self, cycle: Exchange, response: Awaitable[Response]) -> None:
        self._write(cycle, await response)

    def _write(self, cycle: Exchange, response: Response) -> None:
        self._close(cycle)
        if cycle.disconnected or self.transport.is_closing():
            return
        if self.gateway.models.draining:
            cycle.keep_alive = False  # the next request is for a server that stays
        parts = [STATUS_LINE[response.status]]
        for name, value in (*self.server_state.default_headers, *response.headers):
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"content-length: %d\r\n" % len(response.body))
        parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        parts.append(response.body)
        self.transport.write(b"".join(parts))
        if self._broken:  # what is still coming is dropped: a reset would overtake the answer
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        elif not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
        if self.flow.write_paused:
            self.flow.pause_reading()

    def _close(self, cycle: Exchange) -> None:
        if not cycle.response_complete:
            cycle.response_complete = True
            self.gateway.metrics.open -= 1
            if cycle.caller is not None:
                self.gateway.leave(cycle.caller)

    def give_up(self, now: float) -> None:
        """End a request whose head or body does not come, or whose answer is not taken."""
        cycle, limit = self.cycle, self.gateway.limits.body_seconds
        if self._head > 0 or cycle is None or self.flow.write_paused:
            if self._seen is not cycle:
                self._seen, self._seen_at = cycle, now
            elif now - self._seen_at > limit:
                if self._head > 0 and not self._broken:
                    self._refuse(408, f"the headers did not come within {limit} seconds")
                else:
                    self.transport.abort()
            return
        self._seen = _NOTHING
        slow = isinstance(cycle, Exchange) and cycle.more_body and not cycle.response_complete
        if slow and now - cycle.began > limit:
            cycle.keep_alive = False
            cycle.fault = RequestError(408, "", f"the body did not come within {limit} seconds")
            self._answer(cycle)


def bound(gateway: Gateway) -> type[Protocol]:
    """The protocol of one server: uvicorn makes an object of it for each connection."""
    return type("BoundProtocol", (Protocol,), {"gateway": gateway, "sweeper": _Sweeper()})
