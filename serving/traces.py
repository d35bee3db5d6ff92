"""OpenTelemetry spans of requests, where a server is started with ``--trace-share``.

A request is a span, its phases are spans below it; a caller's ``traceparent`` (W3C Trace Context)
is its parent, and decides about its sampling. Spans leave by OTLP over HTTP, in batches, from a
thread; where to is the standard's ``OTEL_EXPORTER_OTLP_ENDPOINT``. Names are those of
OpenTelemetry's semantic conventions for HTTP and RPC.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Mapping
from time import perf_counter, time_ns
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

if TYPE_CHECKING:
    from serving.metrics import ModelMetrics
    from serving.responses import Response

_PARENT = (b"traceparent", b"tracestate")
_COMPUTED = ("parse", "features", "predict", "answer")
_FAULT = 500
_CLOSE_SECONDS = 3.0


class Traces:
    """The spans of one server process. ``share``: of the requests that bring no decision of their
    caller, the part that is traced."""

    def __init__(self, share: float) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "airworthy"}),
            sampler=ParentBased(TraceIdRatioBased(share)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("airworthy.serving")

    def begin(
        self, name: str, told: Mapping[str, str], headers: Mapping[bytes, bytes], began: float
    ) -> Trace:
        """The span of a request that arrived at ``began`` (of ``perf_counter``)."""
        given = {k.decode(): headers[k].decode("latin-1") for k in _PARENT if k in headers}
        start = time_ns() - int(1e9 * (perf_counter() - began))
        span = self._tracer.start_span(
            name, extract(given), SpanKind.SERVER, told, start_time=start
        )
        return Trace(self._tracer, span, start)

    def close(self) -> None:
        """Send what is not sent yet. A collector that is away keeps no server from its end: the
        exporter would try again for 10 seconds a batch."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE_SECONDS)


class Trace:
    """One request's span. ``start``: nanoseconds since the epoch."""

    def __init__(self, tracer: Tracer, span: Span, start: int) -> None:
        self._tracer, self._span, self._at = tracer, span, start
        self._metrics: ModelMetrics | None = None
        self._before: dict[str, float] = {}

    def served_by(self, model: str, version: str, metrics: ModelMetrics) -> None:
        """The model that answers. Its phases are what its histograms grow by: an answer is
        computed in one go, so nothing else adds to them."""
        self._span.set_attributes({"airworthy.model": model, "airworthy.version": version})
        self._metrics = metrics
        self._before = {name: metrics.phases[name].total for name in _COMPUTED}

    def computed(self) -> None:
        """The answer is there: what it took, phase by phase."""
        if self._metrics is None or not self._span.is_recording():
            return
        for name, before in self._before.items():
            self._phase(name, int(1e9 * (self._metrics.phases[name].total - before)))

    async def awaited(self, response: Awaitable[Response]) -> Response:
        """The response, once it is there; its span ends with it."""
        answer = await response
        self._phase("record", time_ns() - self._at)
        self.end(answer.status)
        return answer

    def end(self, code: int) -> None:
        """Answered, with an HTTP status code (gRPC's have the HTTP code of the same meaning)."""
        self._span.set_attribute("http.response.status_code", code)
        if code >= _FAULT:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _phase(self, name: str, nanoseconds: int) -> None:
        if nanoseconds > 0:
            below = set_span_in_context(self._span)
            span = self._tracer.start_span(name, below, start_time=self._at)
            self._at += nanoseconds
            span.end(self._at)
