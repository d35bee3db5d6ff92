"""Reads Feast's sqlite online store without Feast: its import takes seconds and pulls in torch.

The file's form is Feast's own (0.67): one table ``<project>_<view>`` with a row per entity and
feature, keyed by Feast's entity-key serialisation 3, values as ``Value`` messages (protobuf wire
format). A test holds this reader equal to Feast's SDK. The table ``airworthy_store`` names the
tick as of which the whole store was written.
"""

from __future__ import annotations

import calendar
import math
import sqlite3
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import StateError
from feature_repo.ticks import clock_zone

if TYPE_CHECKING:
    from feature_repo.contract import Column, FeatureView, UseCase

_STRING, _INT64 = 2, 4  # feast.types.ValueType.Enum
_DOUBLE_TAG = 0x29  # field 5 (double_val), wire type 1 (eight bytes, little endian)
_CHUNK = 500  # keys in one query; sqlite's limit of parameters is far above
_MISSING: tuple[float, dict[str, float]] = (math.nan, {})


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineRows:
    """Stored features of n requests as of ``tick`` (aware).

    ``columns``: float64 [n] by feature, NaN where missing. ``view_ticks``: float64 [n] by view,
    epoch seconds of the row that was read, NaN where there is none or it is older than the ttl.
    """

    tick: datetime
    columns: dict[str, Column]
    view_ticks: dict[str, Column]


class OnlineStore:
    """The online store of one use case; a file that was replaced is noticed and opened anew.

    Raises:
        StateError: the file is absent, is no such store, or was written for other features.
    """

    def __init__(self, path: Path, use_case: UseCase) -> None:
        self._path = path
        self._use_case = use_case
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._tick = datetime.min.replace(tzinfo=timezone.utc)
        self._tables: dict[str, str] = {}
        self._refresh()

    @property
    def tick(self) -> datetime:
        """Tick as of which the store was written; aware, UTC."""
        self._refresh()
        return self._tick

    def read(self, fields: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Stored features of requests given by their fields; all rows are of one store file."""
        connection = self._refresh()
        columns: dict[str, Column] = {}
        view_ticks: dict[str, Column] = {}
        for view in self._use_case.views:
            keys = [_key(view, f) for f in fields]
            stored = self._rows(connection, self._tables[view.name], keys)
            rows = [self._living(view, stored.get(key, _MISSING)) for key in keys]
            view_ticks[view.name] = np.array([instant for instant, _ in rows], dtype=np.float64)
            for spec in view.features:
                values = [values.get(spec.name, math.nan) for _, values in rows]
                columns[spec.name] = np.array(values, dtype=np.float64)
        return OnlineRows(tick=self._tick, columns=columns, view_ticks=view_ticks)

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _living(
        self, view: FeatureView, row: tuple[float, dict[str, float]]
    ) -> tuple[float, dict[str, float]]:
        """Feast does not apply the ttl online; a row from after the store's tick is no fact yet."""
        tick = self._tick.timestamp()
        return row if tick - view.log.ttl.total_seconds() <= row[0] <= tick else _MISSING

    def _rows(
        self, connection: sqlite3.Connection, table: str, keys: Sequence[bytes]
    ) -> dict[bytes, tuple[float, dict[str, float]]]:
        found: dict[bytes, tuple[float, dict[str, float]]] = {}
        distinct = [key for key in dict.fromkeys(keys) if key]
        try:
            for start in range(0, len(distinct), _CHUNK):
                part = distinct[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                query = (
                    f'SELECT entity_key, feature_name, value, event_ts FROM "{table}" '
                    f"WHERE entity_key IN ({marks})"
                )
                for key, name, value, instant in connection.execute(query, part):
                    found.setdefault(key, (_epoch(instant), {}))[1][name] = double(value)
        except (sqlite3.Error, struct.error, TypeError) as exc:
            raise self._broken(f"{exc}") from exc
        return found

    def _refresh(self) -> sqlite3.Connection:
        try:
            status = self._path.stat()
        except OSError as exc:
            self.close()
            raise StateError(
                f"the online store {self._path} is absent; run the use case's workflow, which "
                "materialises it"
            ) from exc
        identity = (status.st_dev, status.st_ino)
        if self._connection is None or identity != self._identity:
            self.close()
            self._connection = self._open()
            self._identity = identity
        return self._connection

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                f"{self._path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master")]
            row = connection.execute(
                "SELECT tick_seconds, declaration, zone FROM airworthy_store WHERE use_case = ?",
                (self._use_case.name,),
            ).fetchone()
        except sqlite3.Error as exc:
            raise self._broken(f"{exc}") from exc
        if row is None:
            raise self._broken(f"it holds nothing of use case {self._use_case.name!r}")
        if row[1] != self._use_case.declaration:
            raise self._broken(
                f"it was written for feature declaration {str(row[1])[:12]}, this program reads "
                f"{self._use_case.declaration[:12]}"
            )
        if row[2] != clock_zone():
            raise self._broken(
                f"it was written in time zone {row[2]}, this process is in {clock_zone()} (seconds "
                "west of UTC); start both with TZ=UTC"
            )
        self._tables = self._find_tables(names)
        self._tick = datetime.fromtimestamp(int(row[0]), timezone.utc)
        return connection

    def _find_tables(self, names: Sequence[str]) -> dict[str, str]:
        """Feast puts the project's name before each view's; all views share one project."""
        views = [view.name for view in self._use_case.views]
        for name in names:
            project = name.removesuffix(views[0]) if views else ""
            tables = {view: f"{project}{view}" for view in views}
            if set(tables.values()) <= set(names):
                return tables
        raise self._broken(f"tables of the feature views {views} are missing")

    def _broken(self, reason: str) -> StateError:
        return StateError(
            f"the online store {self._path} cannot be used: {reason}; run the use case's "
            "workflow again, which materialises it anew"
        )


def _key(view: FeatureView, fields: Mapping[str, Any]) -> bytes:
    """The entity's key; empty (never stored) when a part of it is null."""
    keys = {name: fields[name] for name in view.entity.keys}
    return b"" if None in keys.values() else entity_key(keys)


def entity_key(keys: Mapping[str, Any]) -> bytes:
    """Feast's entity-key serialisation, version 3, of string and whole-number keys.

    Source: feast/infra/key_encoding_utils.py (count, key names, values; sorted by name).
    """
    names = sorted(keys)
    parts = [struct.pack("<I", len(names))]
    for name in names:
        encoded = name.encode()
        parts += [struct.pack("<II", _STRING, len(encoded)), encoded]
    for name in names:
        value = keys[name]
        kind, content = (
            (_STRING, value.encode())
            if isinstance(value, str)
            else (_INT64, struct.pack("<q", int(value)))
        )
        parts += [struct.pack("<II", kind, len(content)), content]
    return b"".join(parts)


def double(message: bytes) -> float:
    """The double in a serialised ``feast.types.Value``; NaN for a null (an empty message)."""
    if not message:
        return math.nan
    if message[0] != _DOUBLE_TAG:
        raise TypeError("a stored feature is no double")
    return float(struct.unpack_from("<d", message, 1)[0])


def _epoch(stored: int) -> float:
    """Feast stores UTC's wall clock as if it were local time: undo it, as its reader does."""
    return float(calendar.timegm(time.localtime(stored)))
