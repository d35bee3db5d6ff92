"""Packed rows in a sqlite file: the online store of one machine."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from feature_repo.online_rows import CHUNK, SECONDS, Changes, changes, difference, parts
from feature_repo.packed import STATE, TIMES, refuse_later

if TYPE_CHECKING:
    from feature_repo.packed import Rows

_TABLE = "CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_ALL = "SELECT key, value FROM rows"
_GET = "SELECT key, value FROM rows WHERE key IN ({})"
_PUT = (
    "INSERT INTO rows VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
    "WHERE excluded.value <> rows.value "
    f"AND substr(excluded.value, 1, {TIMES}) >= substr(rows.value, 1, {TIMES})"
)


class SqliteRows:
    """Packed rows in a sqlite file in WAL mode: readers and the one writer do not wait."""

    age = 0.0

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``OnlineRows``."""
        found: dict[bytes, bytes] = {}
        distinct = list(dict.fromkeys(keys))  # requests of one batch share entities
        with self._errors():
            connection = self._open()
            if connection is None:
                return [None] * len(keys)
            if len(distinct) <= CHUNK:  # one statement sees one moment
                found = self._found(connection, distinct)
            else:
                with _transaction(connection, "BEGIN"):
                    for part in parts(distinct):
                        found |= self._found(connection, part)
        return [found.get(key) for key in keys]

    def all(self) -> dict[bytes, bytes]:
        """See ``OnlineRows``."""
        with self._errors():
            connection = self._open()
            return dict(connection.execute(_ALL)) if connection is not None else {}

    def version(self) -> bytes:
        """See ``OnlineRows``."""
        with self._errors():
            connection = self._open()
            if connection is None:
                return b""
            # It differs once another connection committed; those that write here are others.
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            return f"{self._identity} {version}".encode()

    def put(self, rows: Rows) -> int:
        """See ``OnlineRows``."""
        rows = list(rows)
        with self._errors(), _transaction(self._make(), "BEGIN IMMEDIATE") as connection:
            refuse_later(rows, self._found(connection, [STATE]).get(STATE))
            before = connection.total_changes
            connection.executemany(_PUT, rows)
            return connection.total_changes - before

    def replace(self, rows: Mapping[bytes, bytes], state: bytes) -> Changes:
        """See ``OnlineRows``."""
        with self._errors(), _transaction(self._make(), "BEGIN IMMEDIATE") as connection:
            held = dict(connection.execute(_ALL))
            changed, gone = difference(held, {**rows, STATE: state})
            connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", changed.items())
            connection.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in gone])
        return changes(changed, gone)

    def drop(self) -> None:
        """See ``OnlineRows``."""
        self.close()
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def _found(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return dict(connection.execute(_GET.format(",".join("?" * len(keys))), keys))

    def _open(self) -> sqlite3.Connection | None:
        """A connection to the file that is there now; None without one."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self.close()
            return None
        identity = (status.st_dev, status.st_ino)
        if self._connection is None or identity != self._identity:
            self.close()
            self._connection = _connect(f"{self._path.resolve().as_uri()}?mode=rw")
            self._identity = identity
        return self._connection

    def _make(self) -> sqlite3.Connection:
        """The same, of a new file where there was none: made aside, so that it appears whole."""
        connection = self._open()
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.tmp")
            made = _connect(fresh.resolve().as_uri())
            made.execute("PRAGMA journal_mode = WAL")
            made.execute(_TABLE)
            made.close()
            try:
                os.link(fresh, self._path)
            except FileExistsError:
                pass  # another process was first
            finally:
                fresh.unlink()
            connection = self._open()
        if connection is None:
            raise StateError(f"the online store {self._path} vanished while it was made; try again")
        return connection

    def close(self) -> None:
        """See ``OnlineRows``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise StateError(
                f"the online store {self._path} cannot be used ({exc}); free the disk, or delete "
                "the file and run the use case's workflow, which materialises it"
            ) from exc


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=SECONDS, check_same_thread=False, isolation_level=None
    )


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[sqlite3.Connection]:
    connection.execute(begin)
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
