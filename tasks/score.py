"""Batch scoring: a table of requests through the service that answers online."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flytekit import task

from feature_repo.contract import UseCase
from feature_repo.errors import RequestError, SourceError
from feature_repo.home import Home, open_home
from feature_repo.registry import get_use_case
from feature_repo.ticks import aware
from tasks.resources import DATA, SIGNING_ENVIRONMENT, SIGNING_KEY
from tasks.steps import step
from tasks.types import Step

if TYPE_CHECKING:
    import pyarrow as pa

    from serving.answered import Answered

CHUNK = 1024
TIME = "prediction_time"  # the one column that may be missing: ``at`` takes its place


class Scored(NamedTuple):
    """The file of predictions, how many, and what the step did."""

    path: str
    rows: int
    step: Step


@task(
    requests=DATA,
    retries=2,
    timeout=timedelta(hours=1),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def score_requests(use_case: str, source: str, at: datetime) -> Scored:
    """Predict each row of ``source`` as asked at ``at``, with the champion.

    The rows go through the service that the server runs: the same certificate check, features,
    tick rule and record under a prediction id. Nothing is written when a row is refused, and the
    same answers of a repeated call have the same ids, file and record.

    Raises:
        SourceError: the file, or a row of it, cannot be asked; names row and field.
        CertificateError: the champion may not fly.
    """
    with step("score") as s:
        home, declared = open_home(), get_use_case(use_case)
        answers = score(home, declared, read_requests(Path(source), declared), at)
        path = keep(home, declared, answers, at)
        rows = sum(len(chunk.ids) for chunk in answers)
        alone = sum(sum(map(bool, a.fallback)) for a in answers if a.fallback)
        by = f", {alone:,} of them by the fallback" if alone else ""
        s.say(f"{rows:,} predictions as of tick {answers[0].tick}{by}, in {path}")
    return Scored(str(path), rows, s.record)


def read_requests(path: Path, use_case: UseCase) -> list[dict[str, Any]]:
    """Rows of a CSV or Parquet file as the server's instances: one column a request field.

    Raises:
        SourceError: unreadable, without rows, or without a column.
    """
    from feature_repo.ingest import read_file

    if not path.is_file():
        raise SourceError(f"{path} is no file; name a CSV or Parquet file, one row a request")
    frame = read_file(path)
    names = [f.name for f in use_case.fields]
    if missing := [name for name in names if name not in frame.columns]:
        raise SourceError(
            f"file {path.name}: column {', '.join(missing)} is missing; the request fields of "
            f"{use_case.name!r} are {', '.join(names)}"
        )
    wanted = [*names, *([TIME] if TIME in frame.columns else [])]
    return [_instance(use_case, row) for row in frame.select(wanted).to_dicts()]


def score(
    home: Home, use_case: UseCase, rows: list[dict[str, Any]], at: datetime
) -> list[Answered]:
    """Answers to ``rows``, in chunks; nothing is recorded yet.

    Raises:
        SourceError: a row is refused; names it and its field, or ``--at`` where the row states no
            time of its own.
    """
    from serving.instances import InstanceForm
    from serving.loading import load_service
    from serving.releases import read_current
    from tasks.ledger import own_trust

    folder, _ = read_current(home, use_case.name)
    service = load_service(home, use_case, folder, trust=own_trust(home))
    try:
        asked, form = aware(at), InstanceForm(use_case)
        instances = []
        for i, row in enumerate(rows):
            with _named(rows, i, asked):
                instances.append(form.instance(0, row, asked))
        answers = []
        for start in range(0, len(instances), CHUNK):
            with _named(rows, start, asked):
                answers.append(service.ask(instances[start : start + CHUNK]).answered)
    finally:
        service.close()
    return answers


def keep(home: Home, use_case: UseCase, answers: list[Answered], at: datetime) -> Path:
    """Record answers together and write their file, whose name and ids follow from them.

    The record comes before the file gets its name: every id in a file can be audited. A rerun
    after a crash in between finds the record, and writes the file only.
    """
    from serving.predictions import find_all
    from serving.segments import PredictionLog

    digest = _digest(answers)
    batch = [_as_batch(chunk, digest, i * CHUNK) for i, chunk in enumerate(answers)]
    path = home.path("scores", use_case.name, f"{at:%Y%m%dT%H%M%S}-{digest[:12]}.parquet")
    with home.lock(f"scores-{use_case.name}"), _renamed(path) as temporary:
        _write(temporary, use_case, batch)
        recorded = find_all(home, [chunk.ids[0] for chunk in batch])
        log = PredictionLog(home, use_case)
        try:  # a chunk is recorded whole or not at all
            for chunk in batch:
                if chunk.ids[0] not in recorded:
                    log.record(chunk)
        finally:
            log.close()
    return path


def _digest(answers: list[Answered]) -> str:
    """sha256 of what was asked and answered, by which certificate, from which features."""
    told = hashlib.sha256()
    for chunk in answers:
        facts = (chunk.fields, chunk.prediction_times, chunk.tick, chunk.certificate)
        told.update(json.dumps(facts, default=str).encode())
        told.update(chunk.scores.tobytes() + chunk.values.tobytes())
    return told.hexdigest()


def _as_batch(chunk: Answered, digest: str, start: int) -> Answered:
    """The ids of a batch lie together, so that a search for one looks into few files."""
    ids = [f"{digest[:20]}{start + i:012x}" for i in range(len(chunk.ids))]
    return replace(chunk, ids=ids, source="batch")


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A hidden temporary file that becomes ``path`` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named(rows: list[dict[str, Any]], start: int, at: datetime) -> Iterator[None]:
    """Name the row of the file, counted from 1, where a refusal names an instance of a chunk
    that begins at row ``start``, counted from 0; a time that no row stated is ``--at``."""
    try:
        yield
    except RequestError as exc:
        found = re.fullmatch(r"instances\[(\d+)\]\.?(.*)", exc.field)
        row = start + int(found[1]) if found else start
        if found and found[2] == TIME and TIME not in rows[row]:
            raise SourceError(f"--at {at.isoformat()} is refused: {exc.message}") from exc
        if found:
            name = f"row {row + 1:,}" + (f", {found[2]}" if found[2] else "")
        else:
            name = f"one of the rows from {row + 1:,} on"
        raise SourceError(
            f"{name} of the requests is refused: {exc.message}; mend it, or leave it out"
        ) from exc


def _instance(use_case: UseCase, row: dict[str, Any]) -> dict[str, Any]:
    """A row's cells as JSON would hold them: CSV cells are text, Parquet's may be instants."""
    kinds = {f.name: f.dtype for f in use_case.fields} | {TIME: "timestamp"}
    return {
        name: _cell(kinds[name], value)
        for name, value in row.items()
        if not (value is None and name == TIME)
    }


def _cell(kind: str, value: Any) -> Any:
    """What is not of the field's kind stays text or a list, and the request's own check then
    names its row and field."""
    if value is None or isinstance(value, bool | list | dict):
        return value
    if kind == "number":
        try:
            return float(value)
        except (TypeError, ValueError):
            return str(value)
    if isinstance(value, datetime):
        return aware(value).isoformat()
    return str(value)


def _write(path: Path, use_case: UseCase, answers: list[Answered]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    value = "probability" if use_case.task == "binary" else "value"
    rows = [
        {
            "prediction_id": prediction_id,
            **chunk.fields[i],
            "prediction_time": chunk.prediction_times[i],
            "tick": chunk.tick,
            "fallback": chunk.fallback if isinstance(chunk.fallback, str) else chunk.fallback[i],
            value: float(chunk.scores[i]),
            "model_version": chunk.version,
            "certificate": chunk.certificate,
        }
        for chunk in answers
        for i, prediction_id in enumerate(chunk.ids)
    ]
    table: pa.Table = pa.Table.from_pylist(rows)
    pq.write_table(table, path)
