"""The durable record of every answer: what an audit begins with.

One sqlite file a use case, ``predictions/<use case>.db``. A row is on disk (WAL, synchronous
FULL) before the answer that names it leaves the process.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.errors import StateError
from feature_repo.home import Home

_TABLE = """CREATE TABLE IF NOT EXISTS predictions (
    id TEXT PRIMARY KEY, use_case TEXT NOT NULL, at TEXT NOT NULL, prediction_time TEXT NOT NULL,
    tick TEXT NOT NULL, fields TEXT NOT NULL, score REAL NOT NULL, version TEXT NOT NULL,
    certificate TEXT NOT NULL, subject TEXT NOT NULL, features TEXT NOT NULL,
    ages_minutes TEXT NOT NULL, source TEXT NOT NULL
) WITHOUT ROWID"""
_COLUMNS = (
    "id", "use_case", "at", "prediction_time", "tick", "fields", "score", "version",
    "certificate", "subject", "features", "ages_minutes", "source",
)  # fmt: skip
_INSTANTS = frozenset({"at", "prediction_time", "tick"})
_DOCUMENTS = frozenset({"fields", "features", "ages_minutes"})
_BUSY_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer. Instants are aware; ``score`` is the probability, or the value predicted.

    ``fields`` are the request's, ``features`` the stored features as read at ``tick`` (None:
    missing), ``ages_minutes`` the age of each view's row at the tick. ``source`` is ``online``
    or ``batch``.
    """

    id: str
    use_case: str
    at: datetime
    prediction_time: datetime
    tick: datetime
    fields: Mapping[str, Any]
    score: float
    version: str
    certificate: str
    subject: str
    features: Mapping[str, float | None]
    ages_minutes: Mapping[str, float | None]
    source: str = "online"


def new_id() -> str:
    """A fresh prediction id: 32 hex digits, ordered by time (UUID version 7, RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    bits = (milliseconds << 80) | secrets.randbits(80)
    bits = (bits & ~(0xF << 76)) | (0x7 << 76)
    return f"{(bits & ~(0x3 << 62)) | (0x2 << 62):032x}"


class PredictionLog:
    """Appends predictions of one use case; several processes may do so at once.

    Raises:
        StateError: the file cannot be opened or written.
    """

    def __init__(self, home: Home, use_case: str) -> None:
        self._path = home.path("predictions", f"{use_case}.db")
        try:
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, check_same_thread=False
            )
            # The change to WAL does not wait for another process's: sqlite says busy at once.
            with home.lock("predictions"):
                self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._connection:
                self._connection.execute(_TABLE)
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def record(self, predictions: Sequence[Prediction]) -> None:
        """Commit predictions to disk, all or none; they are durable when this returns."""
        marks = ",".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO predictions ({','.join(_COLUMNS)}) VALUES ({marks})"
        try:
            with self._connection:
                self._connection.executemany(statement, map(_row, predictions))
        except sqlite3.Error as exc:
            raise self._broken(exc) from exc

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _broken(self, exc: sqlite3.Error) -> StateError:
        return StateError(
            f"the prediction log {self._path} cannot be written ({exc}); free disk space or "
            "repair the file: no answer is given without a record"
        )


def find(home: Home, prediction_id: str) -> Prediction | None:
    """The prediction of any use case with this id, or None.

    Raises:
        StateError: a log cannot be read, or the record is none; names the field.
    """
    for path in sorted((home.root / "predictions").glob("*.db")):
        row = _find_in(path, prediction_id)
        if row is not None:
            return _prediction(row)
    return None


def since(
    home: Home, use_case: str, start: datetime, chunk: int = 10_000
) -> Iterator[list[Prediction]]:
    """Answers of a use case given at ``start`` (aware) or later, in order of id, in chunks.

    Raises:
        StateError: the log cannot be read, or a record is none; names its id and the field.
    """
    path = home.root / "predictions" / f"{use_case}.db"
    if not path.exists():
        return
    query = (
        f"SELECT {','.join(_COLUMNS)} FROM predictions WHERE julianday(at) >= julianday(?) "
        "ORDER BY id"
    )
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            rows = connection.execute(query, (start.isoformat(),))
            while found := rows.fetchmany(chunk):
                yield [_prediction(row) for row in found]
    except sqlite3.Error as exc:
        raise _unreadable(path, exc) from exc


def _find_in(path: Path, prediction_id: str) -> tuple[Any, ...] | None:
    query = f"SELECT {','.join(_COLUMNS)} FROM predictions WHERE id = ?"
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS)
        try:
            row: tuple[Any, ...] | None = connection.execute(query, (prediction_id,)).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise _unreadable(path, exc) from exc
    return row


def _unreadable(path: Path, exc: sqlite3.Error) -> StateError:
    return StateError(f"the prediction log {path} cannot be read ({exc}); restore it")


def _row(prediction: Prediction) -> tuple[Any, ...]:
    values = []
    for name in _COLUMNS:
        value = getattr(prediction, name)
        if name in _INSTANTS:
            value = value.isoformat()
        elif name in _DOCUMENTS:
            value = json.dumps(value, default=str)
        values.append(value)
    return tuple(values)


def _prediction(row: tuple[Any, ...]) -> Prediction:
    values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    for name, value in values.items():
        try:
            values[name] = _parsed(name, value)
        except (TypeError, ValueError) as exc:
            raise StateError(
                f"prediction {row[0]}: {name!r} is recorded as {value!r} ({exc}): it was changed, "
                "or written by another program; restore the prediction log"
            ) from exc
    return Prediction(**values)


def _parsed(name: str, value: Any) -> Any:
    """A column's value as ``Prediction`` holds it."""
    if name == "score":
        if not isinstance(value, float):
            raise TypeError("it must be a number")
        return value
    if not isinstance(value, str):
        raise TypeError("it must be text")
    if name in _INSTANTS:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise ValueError("it must have a time zone")
        return instant
    if name in _DOCUMENTS:
        document = json.loads(value)
        if not isinstance(document, dict):
            raise TypeError("it must be a JSON object")
        return document
    return value
