"""Requests to a server process by wrk: as many as it answers, or at a given rate."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from feature_repo.errors import StateError
from feature_repo.ticks import aware
from serving.capacity import Load

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase
    from feature_repo.home import Home

SCRIPT = Path(__file__).with_name("post.lua")
PATIENCE = 30  # seconds until an answer that did not come counts as failed


def requests_of(use_case: UseCase, rows: pa.Table, tick: datetime) -> list[dict[str, Any]]:
    """Rows of a training set as questions that read ``tick``: entities and fields stay, instants
    are moved with the prediction time."""
    asked, names = tick + use_case.lag, [f.name for f in use_case.fields]
    questions = []
    for row in rows.select([*names, "prediction_time"]).to_pylist():
        moved = asked - aware(row["prediction_time"])
        question = {name: row[name] for name in names}
        for field in use_case.fields:
            if field.dtype == "timestamp":
                question[field.name] = (aware(row[field.name]) + moved).isoformat()
        questions.append({**question, "prediction_time": asked.isoformat()})
    return questions


def write_bodies(folder: Path, questions: Sequence[Mapping[str, Any]]) -> None:
    """A V1 body for each question, as ``post.lua`` reads them."""
    folder.mkdir(parents=True)
    lines = []
    for number, question in enumerate(questions):
        (folder / f"{number:05d}").write_text(json.dumps({"instances": [question]}))
        lines.append(f"{number:05d} 0\n")
    (folder / "index").write_text("".join(lines))


def drive(url: str, bodies: Path, connections: int, seconds: float, rate: float = 0.0) -> Load:
    """Ask the server at ``url`` (to its path) for so long; ``rate``: requests a second, at random
    (0: as many as are answered).

    Raises:
        StateError: there is no wrk, or it cannot reach the server.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise StateError("a load test needs wrk: run 'make wrk' (Debian: apt-get install wrk)")
    pause = [f"{1e3 * connections / rate:g}"] if rate else []
    before = cpu_seconds(url)
    done = subprocess.run(
        [
            wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", f"{PATIENCE}s",
            "-s", str(SCRIPT), url, "--", str(bodies), *pause,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as exc:
        raise StateError(f"wrk could not ask {url}: {done.stdout}{done.stderr}") from exc
    used = cpu_seconds(url) - before
    return Load(
        connections=connections, rate=told["requests"] / told["seconds"],
        mean=told["mean"] / 1e3, p99=told["p99"] / 1e3, cores=used / told["seconds"],
        failed=told["failed"],
    )  # fmt: skip


def cpu_seconds(url: str) -> float:
    """CPU seconds that the server has used."""
    return metric(url, "process_cpu_seconds_total")


def memory(url: str) -> float:
    """Resident bytes of the server."""
    return metric(url, "process_resident_memory_bytes")


def metric(url: str, name: str) -> float:
    """A number without labels that the server at ``url`` tells of itself.

    Raises:
        StateError: it does not answer, or tells none.
    """
    place = url.split("/v", 1)[0] + "/metrics"
    try:
        with urllib.request.urlopen(place, timeout=PATIENCE) as answer:  # noqa: S310 - our own
            text = answer.read().decode()
    except OSError as exc:
        raise StateError(f"{place} does not answer ({exc}); is the server up?") from exc
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                return float(sample.value)
    raise StateError(f"{place} tells no {name}")


@contextmanager
def without_predictions(home: Home) -> Iterator[Home]:
    """The home with a prediction log of its own: what a load test asks is no prediction that
    anybody made, and must not meet outcomes. On the same disk, which the log's speed depends on."""
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".load-") as folder:
        for path in home.root.iterdir():
            if path.name != "predictions" and not path.name.startswith("."):
                (Path(folder) / path.name).symlink_to(path.resolve())
        yield replace(home, root=Path(folder))
