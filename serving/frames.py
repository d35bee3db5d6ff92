"""The bytes of the prediction log: one request's answers are one frame.

A frame is ``AWF1``, the length and the CRC32 of what follows; then the length of a small JSON
document, the document, and float64 values (little endian): scores [n], values [n, columns] and
ages [n, views]. Numbers are copied, never formatted, so a frame costs microseconds. The first
frame of a file is its header.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import orjson

from feature_repo.errors import StateError
from serving.answered import Answered

FORMAT = "airworthy.predictions/v2"
_READ = ("airworthy.predictions/v1", FORMAT)  # the first one knew no fallback
MAGIC = b"AWF1"
_HEAD = struct.Struct("<4sII")
_LENGTH = struct.Struct("<I")
_SECTOR = 512  # what a disk writes whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What every frame of a file shares: the names of the columns, by layout, and the views.

    ``share``: of the requests, the part that the process recorded (1: all).
    """

    use_case: str
    layouts: Mapping[str, list[str]]
    views: list[str]
    share: float = 1.0
    format: str = FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """Intact frames of a file as (start, end) of their payloads, header first, and the offsets
    at which something stands that is none."""

    frames: list[tuple[int, int]]
    damaged: list[int]


def encode_header(header: Header) -> bytes:
    """The first frame of a file."""
    return _frame(orjson.dumps(asdict(header)))


def encode(answered: Answered, header: Header) -> bytes:
    """One request's answers as a frame.

    Raises:
        StateError: a column has not one value an answer, or an array not the header's columns.
    """
    a = answered
    shapes = [(len(a.ids),), (len(a.ids), len(header.layouts[a.layout]))]
    arrays = [a.scores, a.values]
    if a.ages is not None:
        shapes.append((len(a.ids), len(header.views)))
        arrays.append(a.ages)
    if [array.shape for array in arrays] != shapes or not (
        len(a.ids) == len(a.fields) == len(a.prediction_times)
    ):
        raise StateError(
            f"{header.use_case}: {len(a.ids)} answers in layout {a.layout!r} need arrays of "
            f"{shapes}, fields and times, not {[array.shape for array in arrays]}: the server's "
            "program is at fault; restart it with one that fits its model"
        )
    document = orjson.dumps(
        (a.ids, a.at, a.prediction_times, a.tick, a.fields, a.layout, a.ages is not None,
         a.version, a.certificate, a.subject, a.source, a.stale, a.request_id, a.role,
         a.fallback),
        default=_plain, option=orjson.OPT_SERIALIZE_NUMPY,
    )  # fmt: skip
    return _frame(document, *(np.asarray(array, "<f8").tobytes() for array in arrays))


def scan(data: bytes) -> Scan:
    """Where the frames of a file are, each held against its CRC.

    What follows the last intact frame is left out when it was cut off while it was written, as by
    a killed process: it ends early, or in zeros that a power cut left in the place of bytes.
    """
    frames: list[tuple[int, int]] = []
    damaged: list[int] = []
    at = 0
    while at < len(data):
        end = _end(data, at)
        if end:
            frames.append((at + _HEAD.size, end))
            at = end
            continue
        following = _next(data, at + 1)
        if following == len(data) and _torn(data, at):
            break
        damaged.append(at)
        at = following
    return Scan(frames=frames, damaged=damaged)


def decode_header(payload: bytes) -> Header:
    """The file's header; ValueError when it is none, or of another format."""
    (length,) = _LENGTH.unpack_from(payload)
    header = Header(**orjson.loads(payload[_LENGTH.size : _LENGTH.size + length]))
    if header.format not in _READ:
        raise ValueError(f"format {header.format!r}, none of {', '.join(_READ)}")
    return header


def decode(payload: bytes, header: Header) -> Answered:
    """The answers in a frame; ValueError, TypeError or KeyError when it holds none."""
    (length,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size + length
    (ids, at, times, tick, fields, layout, aged, version, certificate, subject, source, stale,
     request_id, role, *fallback) = orjson.loads(payload[_LENGTH.size : start])  # fmt: skip
    numbers = np.frombuffer(payload, "<f8", offset=start)
    rows, columns = len(ids), len(header.layouts[layout])
    end = rows * (1 + columns)
    return Answered(
        ids=ids, at=_instant(at), prediction_times=[_instant(time) for time in times],
        tick=None if tick is None else _instant(tick), fields=fields, scores=numbers[:rows],
        layout=layout, values=numbers[rows:end].reshape(rows, columns),
        ages=numbers[end:].reshape(rows, len(header.views)) if aged else None,
        version=version, certificate=certificate, subject=subject, source=source, stale=stale,
        fallback=fallback[0] if fallback else "", request_id=request_id, role=role,
    )  # fmt: skip


def _frame(document: bytes, *raw: bytes) -> bytes:
    payload = (_LENGTH.pack(len(document)), document, *raw)
    crc = 0
    for part in payload:
        crc = zlib.crc32(part, crc)
    return b"".join((_HEAD.pack(MAGIC, sum(map(len, payload)), crc), *payload))


def _end(data: bytes, at: int) -> int:
    """Where the frame at ``at`` ends; 0 when no intact one begins there."""
    if at + _HEAD.size > len(data):
        return 0
    magic, length, crc = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if magic != MAGIC or start + length > len(data):
        return 0
    return start + length if zlib.crc32(memoryview(data)[start : start + length]) == crc else 0


def _next(data: bytes, at: int) -> int:
    """Where the next intact frame begins, from ``at`` on; the data's end when there is none."""
    found = data.find(MAGIC, at)
    while found >= 0 and not _end(data, found):
        found = data.find(MAGIC, found + 1)
    return len(data) if found < 0 else found


def _torn(data: bytes, at: int) -> bool:
    """Whether what begins at ``at`` was not written to its end."""
    if at + _HEAD.size > len(data):
        return True
    magic, length, _ = _HEAD.unpack_from(data, at)
    cut = magic == MAGIC and at + _HEAD.size + length > len(data)
    return cut or not any(data[max(at, len(data) - _SECTOR) :])


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return instant.astimezone(timezone.utc)  # Arrow takes the wall clock of any other zone for UTC


def _plain(value: Any) -> Any:
    """What orjson does not know: a mapping that is no dict; else its text."""
    return dict(value) if isinstance(value, Mapping) else str(value)
