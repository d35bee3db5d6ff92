"""Every metric and log name of serving, in one place."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    write_to_textfile,
)

if TYPE_CHECKING:
    from pathlib import Path

    from serving.certificate import Certificate
    from serving.skew import SkewReport

LOGGER = "airworthy"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Telemetry:
    """The metrics of one server process."""

    def __init__(self, model: str, version: str, registry: CollectorRegistry = REGISTRY) -> None:
        labels = ("model", "version")
        self._labels = {"model": model, "version": version}
        self._requests = Counter(
            "airworthy_requests", "Requests answered", (*labels, "code"), registry=registry
        )
        self._seconds = Histogram(
            "airworthy_request_seconds", "From the request's arrival to its answer", labels,
            registry=registry, buckets=_BUCKETS,
        ).labels(**self._labels)  # fmt: skip
        self._predictions = Counter(
            "airworthy_predictions", "Predictions made and recorded", labels, registry=registry
        ).labels(**self._labels)
        self._stale = Counter(
            "airworthy_stale_requests", "Instances asked for later than the store may answer",
            labels, registry=registry,
        ).labels(**self._labels)  # fmt: skip
        self._missing = Counter(
            "airworthy_missing_views", "Feature views without a row", (*labels, "view"),
            registry=registry,
        )  # fmt: skip
        self._certificate = Gauge(
            "airworthy_certificate_info", "The certificate that the model flies under",
            (*labels, "certificate", "subject", "keyid", "development"), registry=registry,
        )  # fmt: skip
        self._expired = Gauge(
            "airworthy_certificate_expired", "1: a released model beyond its date", labels,
            registry=registry,
        ).labels(**self._labels)  # fmt: skip
        self._tick = Gauge(
            "airworthy_store_tick_seconds", "Tick of the online store, epoch seconds", labels,
            registry=registry,
        ).labels(**self._labels)  # fmt: skip

    def answered(self, code: int, seconds: float) -> None:
        """Count one request by its status code, and the seconds that it took."""
        self._requests.labels(**self._labels, code=str(code)).inc()
        self._seconds.observe(seconds)

    def predicted(self, count: int, tick: datetime) -> None:
        """Count predictions made as of ``tick``."""
        self._predictions.inc(count)
        self._tick.set(tick.timestamp())

    def stale(self, count: int) -> None:
        """Count instances that the stale policy was applied to."""
        self._stale.inc(count)

    def missing(self, view: str, count: int) -> None:
        """Count instances for which a view had no living row."""
        self._missing.labels(**self._labels, view=view).inc(count)

    def certified(self, certificate: Certificate, expired: bool) -> None:
        """Say which certificate the model was loaded under."""
        signer = certificate.predicate.get("signer") or {}
        self._certificate.labels(
            **self._labels,
            certificate=certificate.id,
            subject=certificate.subject,
            keyid=str(signer.get("keyid")),
            development=str(certificate.development).lower(),
        ).set(1)
        self._expired.set(float(expired))


def write_skew(path: Path, report: SkewReport) -> None:
    """The measured skew as gauges, in a file for node exporter's textfile collector; whole or not
    at all. A batch job has no process that Prometheus could ask."""
    registry = CollectorRegistry()
    labels = ("use_case", "feature")
    share = Gauge(
        "airworthy_skew_share", "Served values that are not the offline ones of their tick, of 1",
        labels, registry=registry,
    )  # fmt: skip
    compared = Gauge(
        "airworthy_skew_compared_values", "Served values held against offline ones", labels,
        registry=registry,
    )  # fmt: skip
    for skew in report.features:
        share.labels(report.use_case, skew.name).set(skew.share)
        compared.labels(report.use_case, skew.name).set(skew.compared)
    write_to_textfile(str(path), registry)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the facts given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        facts = getattr(record, "facts", None)
        if isinstance(facts, dict):
            line.update(facts)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging() -> None:
    """JSON lines on standard error; no line per request, whoever would write it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    levels = {LOGGER: logging.INFO, "kserve": logging.WARNING, "kserve.trace": logging.ERROR}
    for name, level in {**levels, "uvicorn": logging.WARNING}.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.captureWarnings(True)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False


def log(event: str, level: int = logging.INFO, **facts: object) -> None:
    """One log line: a short event, and its facts by name."""
    logging.getLogger(LOGGER).log(level, event, extra={"facts": facts})
