"""Answers as an Arrow table: the one form in which they are sealed and read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from feature_repo.errors import StateError
from serving.answered import Answered
from serving.frames import Header, decode

if TYPE_CHECKING:
    import pyarrow as pa

    Matrix = np.ndarray[Any, np.dtype[np.float64]]

LAYOUTS = {"store": "features", "vector": "inputs"}  # the column that holds each layout's values
AGES = "ages_minutes"


def segment_table(
    path: Path, data: bytes, spans: Iterable[tuple[int, int]], header: Header
) -> pa.Table:
    """The answers in frames of a segment.

    Raises:
        StateError: a frame holds none; names its place.
    """
    answers = []
    start = 0
    try:
        for start, end in spans:
            answers.append(decode(data[start:end], header))
        return table_of(answers, header)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:  # Arrow's are ValueErrors
        raise StateError(
            f"the prediction log {path}: up to byte {start:,} a frame is none ({exc!r}): it was "
            "changed, or written by another program; restore the prediction log"
        ) from exc


def table_of(answers: Sequence[Answered], header: Header) -> pa.Table:
    """Answers as an Arrow table, one row an answer: what a sealed file holds.

    ``features`` (null for vectors), ``inputs`` (null for the store's features) and
    ``ages_minutes`` are structs of doubles by name, null where missing; one that no answer has is
    left out. ``fields`` is JSON; ``row`` the answer's place in its request.
    """
    import pyarrow as pa

    counts = [len(one.ids) for one in answers]
    instant, word = pa.timestamp("us", tz="UTC"), pa.dictionary(pa.int32(), pa.string())

    def repeated(name: str, kind: pa.DataType) -> pa.Array:
        values = pa.array([getattr(one, name) for one in answers], kind)
        return values.take(pa.array(np.repeat(np.arange(len(answers)), counts)))

    def flat(values: Iterable[Iterable[Any]], kind: pa.DataType) -> pa.Array:
        return pa.array([value for of_one in values for value in of_one], kind)

    def one_or_all(name: str, kind: pa.DataType) -> pa.Array:
        held = zip((getattr(one, name) for one in answers), counts, strict=True)
        return flat(([v] * n if isinstance(v, bool | str) else v for v, n in held), kind)

    columns = {
        "id": flat((a.ids for a in answers), pa.string()),
        "request_id": repeated("request_id", pa.string()),
        "row": flat(map(range, counts), pa.int32()),
        "role": repeated("role", word),
        "at": repeated("at", instant),
        "prediction_time": flat((a.prediction_times for a in answers), instant),
        "tick": repeated("tick", instant),
        "fields": flat((map(_json, a.fields) for a in answers), pa.string()),
        "score": pa.array(np.concatenate([a.scores for a in answers])),
        "layout": repeated("layout", word),
        **{name: repeated(name, word) for name in ("version", "certificate", "subject", "source")},
        "stale": one_or_all("stale", pa.bool_()),
        "fallback": one_or_all("fallback", word),
        AGES: _struct(header.views, counts, [a.ages for a in answers]),
    }  # fmt: skip
    for layout, column in LAYOUTS.items():
        held = [a.values if a.layout == layout else None for a in answers]
        columns[column] = _struct(header.layouts[layout], counts, held)
    return pa.table({name: column for name, column in columns.items() if column is not None})


def _struct(
    names: Sequence[str], counts: Sequence[int], held: Sequence[Matrix | None]
) -> pa.Array | None:
    """Arrays float64 [n, names] as one struct; null where there is none, and for NaN."""
    import pyarrow as pa

    if not names or all(array is None for array in held):
        return None  # Parquet has no struct without members
    matrix, at = np.full((len(names), sum(counts)), np.nan), 0
    for count, array in zip(counts, held, strict=True):
        if array is not None:
            matrix[:, at : at + count] = array.T
        at += count
    absent = np.repeat([array is None for array in held], counts)
    members = [pa.array(column, from_pandas=True) for column in matrix]
    return pa.StructArray.from_arrays(members, list(names), mask=pa.array(absent))


def _json(fields: Any) -> str:
    if not isinstance(fields, dict):
        raise TypeError(f"fields are {fields!r}, no JSON object")
    return orjson.dumps(fields).decode()
