"""The inbox of a use case's stream: every message is kept before anything is done with it.

A message may come twice, late and out of order: of those about one row the one reported last
counts, and of two of one instant the one that came first. It outranks the row of the source's
files, whenever those were written: what corrects it is another message, with a later report. A
message that may not pass, or that no step can take, is set aside with its reason. One sqlite file,
``stream/<use case>.db``; numbers are given in the order in which messages become visible, so what a
reader has seen up to a number stays as it was.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from feature_repo.contract import RawTable, UseCase
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.messages import Message, faults
from feature_repo.packed import microseconds

if TYPE_CHECKING:
    import pyarrow as pa

_TABLES = """
CREATE TABLE IF NOT EXISTS messages (
  number INTEGER PRIMARY KEY AUTOINCREMENT, raw_table TEXT NOT NULL, key TEXT NOT NULL,
  reported INTEGER NOT NULL, row TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_key ON messages (raw_table, key, reported DESC, number);
CREATE TABLE IF NOT EXISTS refused (
  number INTEGER PRIMARY KEY AUTOINCREMENT, received TEXT NOT NULL, reason TEXT NOT NULL,
  message TEXT NOT NULL, taken INTEGER, service TEXT
);
CREATE TABLE IF NOT EXISTS retried (number INTEGER PRIMARY KEY, again INTEGER NOT NULL);
"""
# Of each row that a message after :after is about, the message that counts; unless it is older.
_NEWS = """
SELECT raw_table, row FROM (
  SELECT number, raw_table, row, row_number() OVER (
    PARTITION BY raw_table, key ORDER BY reported DESC, number) AS place
  FROM messages WHERE number <= :last AND (raw_table, key) IN (
    SELECT raw_table, key FROM messages WHERE number > :after AND number <= :last)
  AND number NOT IN (SELECT taken FROM refused WHERE service = :service)
) WHERE place = 1 AND number > :after ORDER BY number
"""
_OLD = """
SELECT number, raw_table, row, place FROM (
  SELECT number, raw_table, row, reported, row_number() OVER (
    PARTITION BY raw_table, key ORDER BY reported DESC, number) AS place
  FROM messages WHERE number NOT IN (SELECT taken FROM refused WHERE taken IS NOT NULL)
) WHERE reported < :before AND number <= :end
"""
# What a step of a service could not take: the message's own number says which.
_SET_ASIDE = """
INSERT INTO refused (received, reason, message, taken, service)
SELECT :now, :reason, raw_table || ' ' || row, number, :service FROM messages WHERE number = :number
"""
# What a service could not take, was not retried, and no forgotten message may outrank.
_RETRIABLE = """
SELECT number, reason, raw_table, key FROM messages JOIN (
  SELECT taken, min(reason) AS reason FROM refused WHERE service = :service GROUP BY taken
) ON taken = number
WHERE reported >= :since AND number NOT IN (SELECT number FROM retried) ORDER BY number
"""
# Old messages that none of :services could take, and what services that are gone could not.
_GIVEN_UP = """
SELECT taken FROM refused JOIN messages ON taken = messages.number
WHERE reported < :before AND taken <= :end
AND service IN (SELECT value FROM json_each(:services))
GROUP BY taken HAVING count(DISTINCT service) = json_array_length(:services)
"""
_GONE = """
DELETE FROM refused WHERE service NOT IN (SELECT value FROM json_each(:services))
AND taken IN (SELECT number FROM messages WHERE reported < :before)
"""
_BUSY_SECONDS = 30.0
_LONGEST = 10_000  # characters that are kept of a refused message


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """Messages that are in the inbox now, and the reasons of those that were set aside."""

    accepted: int
    refused: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What messages changed: ``rows`` by raw table, as they are after the message ``last``."""

    last: int
    rows: Mapping[str, list[dict[str, Any]]]


class Counting(NamedTuple):
    """A message that counts for its row: its number, and the row."""

    number: int
    row: dict[str, Any]


def inbox_path(home: Home, use_case: UseCase) -> Path:
    """Where a use case's inbox is, once it has one."""
    return home.root / "stream" / f"{use_case.name}.db"


class Inbox:
    """The messages of one use case; several processes may use it at once.

    Raises (every method):
        StateError: the file cannot be read or written.
    """

    def __init__(self, home: Home, use_case: UseCase) -> None:
        self._path = inbox_path(home, use_case)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._use_case = use_case
        with self._errors():
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
            # The change to WAL does not wait for another process's: sqlite says busy at once.
            with home.lock("stream-inbox"):
                self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_TABLES)

    def append(
        self, messages: Sequence[Message], schemas: Mapping[str, pa.Schema], clock: datetime
    ) -> Received:
        """Keep messages; those that pass and those that do not are on disk when this returns.

        Args:
            messages: in any order.
            schemas: columns of the stored raw tables.
            clock: the stream's own time (aware); no message may be reported after it.
        """
        reasons = faults(self._use_case, schemas, messages, clock)
        declared = {table.name: table for table in self._use_case.tables}
        good, bad = [], []
        for message, reason in zip(messages, reasons, strict=True):
            if reason:
                bad.append((clock.isoformat(), reason, _told(message)))
            else:
                names = schemas[message.table].names
                good.append(_line(declared[message.table], message, names))
        with self._errors(), self._connection as connection:
            connection.executemany(
                "INSERT INTO messages (raw_table, key, reported, row) VALUES (?, ?, ?, ?)", good
            )
            connection.executemany(
                "INSERT INTO refused (received, reason, message) VALUES (?, ?, ?)", bad
            )
        return Received(accepted=len(good), refused=tuple(filter(None, reasons)))

    @property
    def last(self) -> int:
        """The number of the message that came last; 0 before the first."""
        with self._errors():
            found = self._connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'messages'"
            ).fetchone()
        return int(found[0]) if found else 0

    def news(self, after: int, last: int) -> News:
        """The rows that the messages after the number ``after``, up to ``last``, change.

        Raises:
            StateError: there are fewer messages than that: the inbox is not the one that was read.
        """
        asked = {"after": after, "last": last, "service": self._use_case.service}
        with self._errors():
            told = self._connection.execute(_NEWS, asked).fetchall()
        if last < after:
            raise StateError(
                f"the inbox {self._path} ends with message {last}, but a version of the features "
                f"holds {after}: restore the file, or run the use case's workflow, which begins "
                "anew from the source"
            )
        rows: dict[str, list[dict[str, Any]]] = {}
        for table, row in told:
            rows.setdefault(table, []).append(json.loads(row))
        return News(last=last, rows=rows)

    def set_aside(self, number: int, reason: str) -> None:
        """Keep a message out of all that the use case's service is told from now on."""
        values = {
            "now": datetime.now(timezone.utc).isoformat(), "reason": reason, "number": number,
            "service": self._use_case.service,
        }  # fmt: skip
        with self._errors(), self._connection as connection:
            connection.execute(_SET_ASIDE, values)

    def retry(self, since: datetime) -> list[str]:
        """Give each message that the use case's service could not take a new number, so that its
        next step meets it again; a line for each, with its number and why it was set aside.

        All of them at once, and each once: one that is set aside again can be retried again.
        Another service, which may have taken it, sees a message that came twice. Left out is what
        was reported before ``since`` (aware).
        """
        asked = {"service": self._use_case.service, "since": microseconds(since)}
        with self._errors(), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(_RETRIABLE, asked).fetchall()
            for number, *_ in found:
                again = connection.execute(
                    "INSERT INTO messages (raw_table, key, reported, row) "
                    "SELECT raw_table, key, reported, row FROM messages WHERE number = ?", (number,)
                ).lastrowid  # fmt: skip
                connection.execute("INSERT INTO retried VALUES (?, ?)", (number, again))
        return [
            f"message {number} ({table} {key}): {reason}" for number, reason, table, key in found
        ]

    def settled(self, before: datetime, end: int) -> tuple[list[int], dict[str, list[Counting]]]:
        """Messages up to the number ``end`` that were reported before an instant (aware): the
        numbers of those that another one outranks, and by raw table those that count.

        A message that some service could not take is in neither.
        """
        asked = {"before": microseconds(before), "end": end}
        with self._errors():
            found = self._connection.execute(_OLD, asked).fetchall()
        counting: dict[str, list[Counting]] = {}
        for number, table, row, place in found:
            if place == 1:
                counting.setdefault(table, []).append(Counting(number, json.loads(row)))
        return [number for number, _, _, place in found if place > 1], counting

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop messages by their numbers, which are not given again."""
        with self._errors(), self._connection as connection:
            connection.executemany(
                "DELETE FROM messages WHERE number = ?", [(number,) for number in numbers]
            )

    def forget_refused(self, before: datetime, end: int, services: Collection[str]) -> int:
        """Drop what was refused before an instant (aware) when it came, and messages up to the
        number ``end`` that were reported before it and that no one of ``services``, which are all
        that there are, could take; how many."""
        asked = {
            "before": microseconds(before), "end": end, "services": json.dumps(sorted(services))
        }  # fmt: skip
        with self._errors(), self._connection as connection:
            connection.execute(_GONE, asked)
            given_up = connection.execute(_GIVEN_UP, asked).fetchall()
            for table, column in (
                ("messages", "number"),
                ("refused", "taken"),
                ("retried", "number"),
            ):
                connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", given_up)
            told = connection.execute(
                "DELETE FROM refused WHERE taken IS NULL AND strftime('%s', received) + 0 < ?",
                (before.timestamp(),),
            )
            return len(given_up) + told.rowcount

    def refused(self) -> Counter[str]:
        """How many messages were refused or set aside and are not forgotten, by reason."""
        with self._errors():
            rows = self._connection.execute("SELECT reason, count(*) FROM refused GROUP BY reason")
            return Counter(dict(rows))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StateError(
                f"the inbox {self._path} cannot be used ({exc}); free disk space or restore the "
                "file: no message counts as received before it is on disk"
            ) from exc


def _line(declared: RawTable, message: Message, names: Sequence[str]) -> tuple[str, str, int, str]:
    """A message as a row of ``messages``; instants in UTC, so that one key is one text."""
    row = {name: _plain(message.row[name]) for name in names}
    key = json.dumps([row[name] for name in declared.key])
    return declared.name, key, microseconds(message.reported_at), json.dumps(row)


def _told(message: Message) -> str:
    """A refused message, as it came; cut where it is endless."""
    try:
        return repr(message)[:_LONGEST]
    except Exception as exc:  # what a sender makes up may raise anything
        return f"a message that cannot be shown ({type(exc).__name__})"


def _plain(value: Any) -> Any:
    return value.astimezone(timezone.utc).isoformat() if isinstance(value, datetime) else value
