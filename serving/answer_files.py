"""Which files hold answers, and their rows: open segments and sealed Parquet, read without a lock.

A segment whose sealed file exists is ignored, and one that vanishes was sealed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.answer_table import segment_table
from serving.sealing import Sealed, check_sealed, sealed_files
from serving.segments import damage, read_segment, segments

if TYPE_CHECKING:
    import pyarrow as pa

_FALLBACK = "fallback"
_LISTINGS = 10  # how often a folder is listed again while segments are sealed under the reader
_T = TypeVar("_T")


def folders(home: Home) -> list[Path]:
    """The folder of each use case that answered."""
    return sorted(path for path in (home.root / "predictions").glob("*") if path.is_dir())


def settled(read: Callable[[], _T]) -> _T:
    """What ``read`` gives once no segment is sealed under it."""
    for _ in range(_LISTINGS):
        try:
            return read()
        except FileNotFoundError:
            continue
    return read()


def listed(folder: Path) -> tuple[list[Sealed], list[Path]]:
    """Sealed files, and segments that are not sealed. The segments are listed first: one that is
    gone by then has its sealed file already."""
    live = segments(folder)
    sealed = sealed_files(folder)
    done = {one.segment for one in sealed}
    return sealed, [path for path in live if path.stem not in done]


def readers(
    folder: Path, wanted: set[str], faults: list[StateError]
) -> list[Callable[[], pa.Table]]:
    """What reads the wanted answers from each file that may hold one; the damage of segments,
    whose whole frames are read all the same, is added to ``faults``."""
    import pyarrow.compute as pc

    sealed, live = listed(folder)
    names = [prediction_id.encode() for prediction_id in wanted]
    chosen = pc.field("id").isin(sorted(wanted))
    found: list[Callable[[], pa.Table]] = []
    for path in live:
        try:
            header, data, scan = read_segment(path)
        except StateError as exc:
            faults.append(exc)
            continue
        spans = [(s, e) for s, e in scan.frames if any(data.find(n, s, e) >= 0 for n in names)]
        if spans:
            found.append(partial(segment_table, path, data, spans, header))
        if scan.damaged:
            faults.append(damage(path, scan))
    for one in sealed:
        if any(one.first <= prediction_id <= one.last for prediction_id in wanted):
            found.append(partial(read_sealed, one.path, chosen))
    return found


def opened(folder: Path, start: datetime) -> tuple[list[Sealed], list[pa.Table]]:
    """Sealed files with answers of ``start`` or later, and such answers of segments, by id."""
    import pyarrow.compute as pc

    sealed, live = listed(folder)
    tables = []
    for path in live:
        header, data, scan = read_segment(path)
        if scan.damaged:
            raise damage(path, scan)
        if scan.frames:
            table = segment_table(path, data, scan.frames, header)
            tables.append(table.filter(pc.field("at") >= start).sort_by("id"))
    return [one for one in sealed if one.last_at >= start], [t for t in tables if t.num_rows]


def read_sealed(path: Path, chosen: Any, names: Sequence[str] | None = None) -> pa.Table:
    """Chosen rows of a sealed file; groups of rows that cannot hold one are passed over. A file of
    the time before there was a fallback says that none answered."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with readable(path):
        held = pq.read_schema(path).names
        columns = held if names is None else [name for name in names if name in held]
        table = pq.read_table(
            path, columns=columns, filters=chosen, partitioning=None,
            page_checksum_verification=True,
        )  # fmt: skip
    if _FALLBACK in held or (names is not None and _FALLBACK not in names):
        return table
    none = pa.array([""] * table.num_rows, pa.dictionary(pa.int32(), pa.string()))
    return table.append_column(_FALLBACK, none)


def share_of(path: Path) -> float:
    """The share of requests that the process of a sealed file recorded."""
    import pyarrow.parquet as pq

    with readable(path):
        return float(pq.read_schema(path).metadata[b"airworthy.share"])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around the reading of a sealed file, whose bytes are checked first; raises StateError where
    it is none."""
    try:
        check_sealed(path)
        yield
    except (OSError, ValueError, KeyError, TypeError) as exc:  # Arrow's errors are ValueErrors
        raise StateError(
            f"the prediction log {path} cannot be read ({exc!r}): it was changed, or written by "
            "another program; restore it"
        ) from exc
