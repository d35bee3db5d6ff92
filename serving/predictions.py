"""The record of every answer, read: what an audit begins with."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.answer_files import (
    folders,
    listed,
    opened,
    read_sealed,
    readable,
    readers,
    settled,
    share_of,
)
from serving.answer_table import AGES, LAYOUTS
from serving.answered import Layout, Role
from serving.segments import folder_of, read_segment

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1024
_STRUCTS = (*LAYOUTS.values(), AGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer. Instants are aware; ``score`` is the probability, or the value predicted.

    ``fields`` are the request's. ``features`` are the stored features as read at ``tick`` (None:
    missing) where ``layout`` is ``store``; where it is ``vector`` there is no tick, and they are
    the numeric inputs that the caller sent. ``ages_minutes``: the age of each view's row at the
    tick. ``source`` is ``online`` or ``batch``. ``row``: the answer's place in its request.
    ``fallback``: why the fallback answered, from the request alone; empty where the model did.
    """

    id: str
    use_case: str
    at: datetime
    prediction_time: datetime
    tick: datetime | None
    fields: Mapping[str, Any]
    score: float
    version: str
    certificate: str
    subject: str
    features: Mapping[str, float | None]
    ages_minutes: Mapping[str, float | None] = field(default_factory=dict)
    source: str = "online"
    stale: bool = False
    fallback: str = ""
    layout: Layout = "store"
    request_id: str = ""
    row: int = 0
    role: Role = "champion"


def find(home: Home, prediction_id: str) -> Prediction | None:
    """The prediction of any use case with this id, or None; for errors see ``find_all``."""
    return find_all(home, [prediction_id]).get(prediction_id)


def find_all(home: Home, ids: Iterable[str]) -> dict[str, Prediction]:
    """Predictions of any use case by their ids, as many as are recorded.

    Raises:
        StateError: a file cannot be read or is damaged, and not all ids are in the other files.
    """
    wanted, found = set(ids), dict[str, Prediction]()
    faults: list[StateError] = []
    for folder in folders(home):
        for read in settled(lambda: readers(folder, wanted, faults)):  # noqa: B023 -- at once
            try:
                found |= {p.id: p for p in _rows(folder.name, read()) if p.id in wanted}
            except StateError as exc:
                faults.append(exc)
    if faults and wanted - found.keys():
        raise faults[0]
    return found


def since(
    home: Home, use_case: str, start: datetime, chunk: int = 10_000
) -> Iterator[list[Prediction]]:
    """Answers of a use case given at ``start`` (aware) or later, in order of id, in chunks.

    Raises:
        StateError: a file cannot be read, is damaged, or holds what is no answer.
    """
    sealed, live = settled(lambda: opened(folder_of(home, use_case), start))
    sources = [(one.first, partial(_rows_of, use_case, one.path, start)) for one in sealed]
    sources += [(str(table["id"][0]), partial(_rows, use_case, table)) for table in live]
    rows = _merged(sorted(sources, key=lambda source: source[0]))
    while found := list(islice(rows, chunk)):
        yield found


def columns_since(
    home: Home, use_case: str, start: datetime, names: Sequence[str]
) -> Iterator[pa.Table]:
    """Columns (see ``answer_table.table_of``) of the same answers, a file at a time; what else the
    files hold is not read. For errors see ``since``."""
    import pyarrow.compute as pc

    sealed, live = settled(lambda: opened(folder_of(home, use_case), start))
    for one in sealed:
        yield read_sealed(one.path, pc.field("at") >= start, names)
    for table in live:
        yield table.select(list(names))


def share_recorded(home: Home, prediction_id: str) -> float:
    """The smallest share of requests that was recorded in any file whose ids span this one."""
    shares = [1.0]
    for folder in folders(home):
        sealed, live = settled(lambda: listed(folder))  # noqa: B023 -- used at once
        shares += [read_segment(path)[0].share for path in live if path.exists()]
        shares += [share_of(one.path) for one in sealed if one.first <= prediction_id <= one.last]
    return min(shares)


def _merged(sources: list[tuple[str, Callable[[], Iterator[Prediction]]]]) -> Iterator[Prediction]:
    """Rows of sources in order of id; each is opened when its first id is reached."""
    waiting, heap, serial = deque(sources), list[tuple[str, int, Prediction, Any]](), count()
    while waiting or heap:
        while waiting and (not heap or waiting[0][0] <= heap[0][0]):
            rows = waiting.popleft()[1]()
            if (row := next(rows, None)) is not None:
                heapq.heappush(heap, (row.id, next(serial), row, rows))
        if heap:
            _, _, row, rows = heap[0]
            yield row
            if (following := next(rows, None)) is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (following.id, next(serial), following, rows))


def _rows_of(use_case: str, path: Path, start: datetime) -> Iterator[Prediction]:
    """Rows of a sealed file, a group of them at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with readable(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        for batch in file.iter_batches(_BATCH):
            yield from _rows(use_case, pa.table(batch).filter(pc.field("at") >= start))


def _rows(use_case: str, table: pa.Table) -> Iterator[Prediction]:
    """The rows of a table of answers."""
    names = [column for column in table.column_names if column not in _STRUCTS]
    plain = [table[name].to_pylist() for name in names]
    structs = {name: _documents(table, name) for name in _STRUCTS}
    for position, values in enumerate(zip(*plain, strict=True)):
        row = dict(zip(names, values, strict=True))
        row["fields"] = orjson.loads(row["fields"])
        held = structs[LAYOUTS[row["layout"]]][position]
        yield Prediction(
            use_case=use_case, features=held, ages_minutes=structs[AGES][position], **row
        )


def _documents(table: pa.Table, name: str) -> list[dict[str, float | None]]:
    """A struct's numbers by name, for each row; empty where the row has none."""
    if name not in table.column_names:
        return [{}] * table.num_rows
    column = table[name].combine_chunks()
    members = [member.name for member in column.type]
    present = column.is_valid().to_pylist()
    columns = [member.to_pylist() for member in column.flatten()]
    rows = zip(*columns, strict=True)
    return [
        dict(zip(members, r, strict=True)) if p else {} for r, p in zip(rows, present, strict=True)
    ]
