"""Takes OTLP over HTTP, as any collector does."""

from __future__ import annotations

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """A collector that listens until it is closed."""

    def __init__(self) -> None:
        self.received: queue.Queue[bytes] = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.put(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        """Every span that came."""
        found = []
        while not self.received.empty():
            message = ExportTraceServiceRequest.FromString(self.received.get())
            for resource in message.resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found

    def metrics(self) -> list[dict[str, list[tuple[dict[str, str], float]]]]:
        """Every message that came: attributes and values by metric."""
        found = []
        while not self.received.empty():
            message = ExportMetricsServiceRequest.FromString(self.received.get())
            (resource,) = message.resource_metrics
            (scope,) = resource.scope_metrics
            found.append({metric.name: _points(metric) for metric in scope.metrics})
        return found

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()


def _points(metric: Any) -> list[tuple[dict[str, str], float]]:
    points = getattr(metric, metric.WhichOneof("data")).data_points
    return [
        (
            {one.key: one.value.string_value for one in point.attributes},
            float(getattr(point, point.WhichOneof("value"))),
        )
        for point in points
    ]
