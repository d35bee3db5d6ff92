"""Log lines, and the metrics of batch jobs; those of a server are in ``serving.metrics``."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

if TYPE_CHECKING:
    from pathlib import Path

    from serving.skew import SkewReport

LOGGER = "airworthy"


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
