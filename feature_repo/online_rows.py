"""Where packed rows are kept: a sqlite file in the home, or one hash in Redis. Same rules on both.

A write is one transaction: a kill at any moment leaves the old rows and the old tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from feature_repo.home import online_store
from feature_repo.packed import STATE

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.home import Home
    from feature_repo.packed import Rows

CHUNK = 10_000  # keys or rows in one statement; sqlite takes 32,766 parameters
SECONDS = 30.0  # to wait for another writer, and for Redis
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """Rows that a replacement wrote and deleted, the state apart."""

    written: int
    deleted: int


class RowReader(Protocol):
    """What a server reads packed rows from: a store, or its own copy of one.

    Raises (every method):
        StateError: the store does not answer, or is no such store.
    """

    @property
    def name(self) -> str:
        """Where the rows are."""

    @property
    def age(self) -> float:
        """Seconds since what is read was last known to be what the store holds."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, all of one moment; None where there is none. An absent store is empty."""

    def close(self) -> None:
        """Let go of it."""


class OnlineRows(RowReader, Protocol):
    """A store of packed rows of one feature service."""

    def all(self) -> dict[bytes, bytes]:
        """Every row and the state, of one moment; an absent store is empty."""

    def version(self) -> bytes:
        """Something that is another one after rows or state changed."""

    def put(self, rows: Rows) -> int:
        """Write rows that are not older than the store's, by event time, then created time, all or
        none; how many the store did not have.

        Raises:
            StateError: a row is of a tick after the store's.
        """

    def replace(self, rows: Mapping[bytes, bytes], state: bytes) -> Changes:
        """Make the store hold these rows and this state, and nothing else, in one step."""

    def drop(self) -> None:
        """Remove the store."""


def rows_of(home: Home, use_case: UseCase) -> OnlineRows:
    """The online rows of a use case's declaration, where the environment says."""
    return open_rows(online_store(home), use_case.service)


def open_rows(address: str, service: str) -> OnlineRows:
    """The online rows of a feature service at a Redis URL or in a folder."""
    if "://" in address:
        from feature_repo.redis_rows import RedisRows

        return RedisRows(address, service)
    from feature_repo.sqlite_rows import SqliteRows

    return SqliteRows(Path(address) / f"{service}.db")


def difference(
    held: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Rows to write and keys to delete, so that a store that holds ``held`` holds ``wanted``."""
    changed = {key: value for key, value in wanted.items() if held.get(key) != value}
    return changed, [key for key in held if key not in wanted]


def changes(changed: Mapping[bytes, bytes], gone: Sequence[bytes]) -> Changes:
    """How many rows a replacement touches."""
    return Changes(written=len(changed) - (STATE in changed), deleted=len(gone))


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """``items`` in pieces that one statement takes."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
