"""Where a training's metrics go: by OTLP while it runs, to a Pushgateway at its end.

Neither fails a training or makes it wait: OTLP leaves from a thread of its own, and who does not
answer is named once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tasks.watch.telemetry import GAUGE, METRICS, Reading, families

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

SHARED_SECONDS = 0.5  # instruments that are read in a row tell of one moment
CLOSE_SECONDS = 3.0  # what the end of a training waits for a collector that is away


class Live:
    """OTLP over HTTP to where the standard's variables say, each ``OTEL_METRIC_EXPORT_INTERVAL``
    milliseconds (a minute, where it is not set) and at the end."""

    def __init__(
        self, use_case: str, read: Callable[[], list[Reading]], say: Callable[[str], None]
    ) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        self._read, self._use_case, self._say = read, use_case, say
        self._failed = False
        self._last: tuple[float, list[Reading]] = (0.0, [])
        # It writes a line for every try.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(_exporter(self._fail))],
            resource=Resource.create({"service.name": "airworthy-training"}),
            shutdown_on_exit=False,
        )
        meter = self._provider.get_meter("airworthy.training")
        for name, metric in METRICS.items():
            gauge = metric.kind == GAUGE
            make = meter.create_observable_gauge if gauge else meter.create_observable_counter
            make(name, [self._callback(name, metric.labels)], description=metric.meaning)

    def _callback(self, name: str, labels: tuple[str, ...]) -> Callable[[Any], Iterable[Any]]:
        from opentelemetry.metrics import Observation

        def observe(_: Any) -> Iterator[Any]:
            for reading in self._now():
                if reading.name == name:
                    told = dict(zip(labels, reading.labels, strict=True))
                    yield Observation(reading.value, {"use_case": self._use_case, **told})

        return observe

    def _now(self) -> list[Reading]:
        at, readings = self._last
        if time.monotonic() - at > SHARED_SECONDS:
            readings = self._read()
            self._last = time.monotonic(), readings
        return readings

    def _fail(self) -> None:
        if not self._failed:
            self._failed = True
            self._say("the collector of metrics (OTLP) does not take them; the training goes on")

    def close(self) -> None:
        """Send what can be said now."""
        self._last = (0.0, [])
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)
        if ending.is_alive():
            self._fail()


def _exporter(failed: Callable[[], None]) -> Any:
    """OpenTelemetry's exporter, which tells where nobody took what it sent."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import MetricExportResult

    class Exporter(OTLPMetricExporter):
        def export(self, *given: Any, **more: Any) -> MetricExportResult:
            result = super().export(*given, **more)
            if result is not MetricExportResult.SUCCESS:
                failed()
            return result

    return Exporter()


def push(address: str, use_case: str, readings: list[Reading], say: Callable[[str], None]) -> None:
    """Leave the last readings at a Pushgateway, in the place of those of the training before."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import push_to_gateway
    from prometheus_client.registry import Collector

    class Last(Collector):
        def collect(self) -> Iterator[Family]:
            yield from families(readings)

    registry = CollectorRegistry()
    registry.register(Last())
    grouped = {"use_case": use_case}
    try:
        push_to_gateway(address, "airworthy_training", registry, grouped, timeout=CLOSE_SECONDS)
    except (OSError, ValueError) as exc:  # away, refused, or no address at all
        say(f"the Pushgateway {address} did not take the metrics ({exc}); the training goes on")
