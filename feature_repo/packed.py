"""The form of an online row, the same on every store: one key and one value a (view, entity).

The key is the view's name and Feast's entity-key serialisation. The value is fixed in size:
event time, created time (microseconds since the epoch, big endian, so that bytes compare as
times do), then one float64 a feature in the view's declared order (little endian, NaN where
missing). Of two values of one key the one whose first ``TIMES`` bytes are larger stays: the later
event, then the later created, whatever the order of arrival. Of two of the same times the one that
was written last stays: a correction of a row has the times of that row.

The store's own state is a row too, under ``STATE``, so that one read sees rows and tick of one
moment. Neither Feast nor pandas is imported: the server reads this.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import StateError
from feature_repo.ticks import EPOCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from feature_repo.contract import FeatureView

    Rows = Iterable[tuple[bytes, bytes]]
    Instants = Sequence[int] | NDArray[np.int64]

STATE = b"state"  # no row's key: those have a NUL after the view's name
INSTANT = 8  # leading bytes of a row and of the state: when it is
TIMES = 16  # leading bytes of a row: event time and created time
_STRING, _INT64 = 2, 4  # feast.types.ValueType.Enum
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreState:
    """What a store holds: use case, declaration, digest of the views, tick (aware, UTC)."""

    use_case: str
    declaration: str
    content: str
    tick: datetime

    def pack(self) -> bytes:
        """The value of the row ``STATE``; it begins with the tick as rows do with their event."""
        facts = {
            "use_case": self.use_case, "declaration": self.declaration, "content": self.content,
        }  # fmt: skip
        return struct.pack(">Q", microseconds(self.tick)) + json.dumps(facts).encode()


def unpack_state(value: bytes) -> StoreState:
    """The state that ``pack`` wrote.

    Raises:
        StateError: it is none.
    """
    try:
        (tick,) = struct.unpack_from(">Q", value)
        facts = json.loads(value[INSTANT:])
        return StoreState(tick=EPOCH + timedelta(microseconds=tick), **facts)
    except (struct.error, ValueError, TypeError, OverflowError) as exc:
        raise StateError(f"the state in the online store is damaged ({exc!r})") from exc


class RowFormat:
    """Keys and values of one view. ``features`` are its feature names in declared order,
    ``nothing`` the value that an absent row is read as."""

    def __init__(self, view: str, features: Sequence[str]) -> None:
        self.view = view
        self.features = tuple(features)
        self._prefix = view.encode() + b"\0"
        self._dtype = np.dtype(
            [("event", ">u8"), ("created", ">u8"), ("values", "<f8", (len(self.features),))]
        )
        self.nothing = self.pack([0], [0], np.full((1, len(self.features)), math.nan))[0]

    def key(self, entity: bytes) -> bytes:
        """Key of the row of an entity (its ``entity_key``)."""
        return self._prefix + entity

    def pack(self, event: Instants, created: Instants, values: NDArray[np.float64]) -> list[bytes]:
        """Values of n rows: microseconds [n], microseconds [n], features [n, features]."""
        rows = np.zeros(len(event), dtype=self._dtype)
        rows["event"], rows["created"], rows["values"] = event, created, values
        content, size = rows.tobytes(), self._dtype.itemsize
        return [content[i : i + size] for i in range(0, len(content), size)]

    def unpack(self, rows: Sequence[bytes | None]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Event times [n] in microseconds (0 where there is no row) and features [n, features].

        Raises:
            StateError: a row is not of this view's form.
        """
        content = b"".join([self.nothing if row is None else row for row in rows])
        if len(content) != len(rows) * self._dtype.itemsize:
            raise StateError(
                f"a row of the feature view {self.view!r} is not of {self._dtype.itemsize} bytes, "
                f"as its {len(self.features)} features need"
            )
        table = np.frombuffer(content, dtype=self._dtype)
        return table["event"], table["values"]


def row_format(view: FeatureView) -> RowFormat:
    """The form of a declared view's rows."""
    return RowFormat(view.name, [spec.name for spec in view.features])


def microseconds(instant: datetime) -> int:
    """Microseconds since the epoch of an aware instant."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def entity_key(keys: Mapping[str, Any]) -> bytes:
    """Feast's entity-key serialisation, version 3, of string and whole-number keys.

    Source: feast/infra/key_encoding_utils.py (count, key names, values; sorted by name).
    """
    names = tuple(sorted(keys))
    parts = [_key_names(names)]
    for name in names:
        value = keys[name]
        if isinstance(value, str):
            content = value.encode()
            parts += (_HEAD.pack(_STRING, len(content)), content)
        else:
            parts.append(struct.pack("<IIq", _INT64, 8, int(value)))
    return b"".join(parts)


@cache
def _key_names(names: tuple[str, ...]) -> bytes:
    parts = [struct.pack("<I", len(names))]
    for name in names:
        encoded = name.encode()
        parts += (_HEAD.pack(_STRING, len(encoded)), encoded)
    return b"".join(parts)


def refuse_later(rows: Rows, state: bytes | None) -> None:
    """Refuse rows of instants after the store's tick: its reader would lose the entity's row of
    the tick, and have none instead.

    Raises:
        StateError: names how many, and the way out.
    """
    tick = (state or b"")[:INSTANT]
    later = sum(value[:INSTANT] > tick for _, value in rows) if tick else 0
    if later:
        raise StateError(later_message(later, unpack_state(state or b"").tick))


def later_message(count: int, tick: datetime) -> str:
    """What to say of rows after the store's tick."""
    return (
        f"{count:,} rows are of ticks after the online store's own, {tick.isoformat()}, and none "
        "was written: an answer reads one tick. Materialise the store as of the later tick; a "
        "push is for what became known late about earlier ones"
    )
