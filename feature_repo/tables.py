"""Tables named by the digest of their content: what passes between the steps of a pipeline.

A table is one Parquet file, ``tables/<digest>.parquet``, or a folder ``tables/<digest>/`` with
one part a month, ``<YYYY-MM>.<rows>.<digest of the part>.parquet``. Parts are hard links: versions
of a table share what did not change, and two versions are compared by their parts' names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from feature_repo.home import Home, digest_of, file_digest, sync

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import RawTable


@dataclass(frozen=True)
class Table:
    """A stored table. Flat, so that it shows well in the console.

    ``digest`` is the sha256 of the file, or of the parts' months and digests; ``schema_hash`` that
    of its column names and types.
    """

    name: str
    uri: str
    digest: str
    schema_hash: str
    rows: int


def write_table(home: Home, name: str, table: pa.Table) -> Table:
    """Store an Arrow table as one file; the same content is stored once."""
    temporary = home.path("tables", f".{uuid.uuid4().hex}.tmp")
    digest = _write(table, temporary)
    path = home.path("tables", f"{digest}.parquet")
    temporary.replace(path)
    sync(path.parent)
    return Table(name, str(path), digest, _schema_hash(table.schema), table.num_rows)


def write_parts(
    home: Home, name: str, changed: Iterable[tuple[str, pa.Table]], kept: Iterable[Path] = ()
) -> Table:
    """Store a table by parts: ``changed`` ones by their month (each once, at least one), written
    as they come, and ``kept`` ones of other months as links.

    A part without rows is left out; a table without any part is one empty file.
    """
    with _folder(home) as folder:
        months, schema = set(), None
        for month, part in changed:
            months.add(month)
            schema = part.schema
            if part.num_rows:
                digest = _write(part, folder / "part")
                (folder / "part").rename(folder / f"{month}.{part.num_rows}.{digest}.parquet")
        if schema is None:
            raise StateError(f"table {name!r}: nothing was computed, not even an empty part")
        for path in kept:
            if month_of(path) not in months:
                os.link(path, folder / path.name)
        names = [path.name.split(".") for path in folder.iterdir()]
        if not names:
            return write_table(home, name, schema.empty_table())
        digest = digest_of({month: part_digest for month, _, part_digest, _ in names})
        target = home.path("tables", digest)
        _settle(folder, target)
    rows = sum(int(count) for _, count, _, _ in names)
    return Table(name, str(target), digest, _schema_hash(schema), rows)


def write_raw(home: Home, declared: RawTable, table: pa.Table) -> Table:
    """Store a raw table, one part a month of its time."""
    if declared.time is None:
        return write_table(home, declared.name, table)
    return write_parts(home, declared.name, by_month(table, declared.time).items())


def by_month(table: pa.Table, column: str) -> dict[str, pa.Table]:
    """The table's rows by the month (UTC, ``YYYY-MM``) of an instant, in their order; at least
    one part. Rows without the instant are in the part ``none``."""
    import polars as pl

    frame = pl.DataFrame(table)
    month = pl.col(column).dt.truncate("1mo").alias("_month")
    parts = frame.with_columns(month).partition_by("_month", as_dict=True, include_key=False)
    return {
        f"{start:%Y-%m}" if start else "none": part.to_arrow().cast(table.schema)
        for (start,), part in parts.items()
    } or {"none": table}


def month_of(path: Path) -> str:
    """The month that a part's file name states; of a table in one file, its digest."""
    return path.name.split(".")[0]


def table_place(home: Home, digest: str) -> Path:
    """Where the table of a digest is stored: a folder of parts, or a file."""
    folder = home.root / "tables" / digest
    return folder if folder.is_dir() else folder.with_name(f"{digest}.parquet")


def content_digest(place: Path) -> str:
    """The digest of a stored table's bytes, read anew; a part with a wrong name changes it."""
    if not place.is_dir():
        return file_digest(place)
    return digest_of({month_of(path): file_digest(path) for path in place.iterdir()})


def table_files(table: Table) -> list[Path]:
    """The table's files, in the order of their names, which say whether all of them are there.

    Raises:
        StateError: it is gone (a clean-up ran, or the home was moved), or a part of it is.
    """
    path = Path(table.uri)
    if not path.is_dir():
        if path.exists():
            return [path]
        raise _broken(table, f"is no longer at {path}")
    files = sorted(path.glob("*.parquet"))
    if digest_of({month_of(file): _stated_digest(file) for file in files}) != table.digest:
        months = ", ".join(map(month_of, files)) or "none"
        raise _broken(
            table, f"of {table.rows:,} rows has not the parts that it was stored with: of the "
            f"months in {path} ({months}) some are missing, or other ones"
        )  # fmt: skip
    return files


def _stated_digest(file: Path) -> str:
    """The digest that the name of a table's file states."""
    return file.name.split(".")[-2]


def check_whole(tables: Iterable[Table]) -> None:
    """Read every file anew, and hold it against the digest that its name states.

    Raises:
        StateError: a part is missing, cannot be read or is damaged.
    """
    for table in tables:
        for file in table_files(table):
            try:
                whole = file_digest(file) == _stated_digest(file)
            except OSError as exc:
                raise _broken(table, f"cannot be read ({exc})") from exc
            if not whole:
                raise _broken(table, f"is damaged: {file} has not the bytes that it was made of")


def stored_schema(table: Table) -> pa.Schema:
    """Columns of a stored table.

    Raises:
        StateError: its first file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    (file, *_) = table_files(table)
    try:
        return pq.read_schema(file)
    except (OSError, pa.ArrowException) as exc:
        raise _broken(table, f"is damaged ({file}: {exc})") from exc


def _broken(table: Table, fault: str) -> StateError:
    return StateError(
        f"table {table.name!r} ({table.digest[:12]}) {fault}; restore it from a backup, or remove "
        "what is left of it and the versions under offline/ that name it, and run again with "
        "'pyflyte run --overwrite-cache', which makes it anew"
    )


def parts_of(table: Table) -> dict[str, Path]:
    """The parts by their months; none of a table in one file."""
    return {month_of(path): path for path in table_files(table) if Path(table.uri) != path}


def files_between(table: Table, first: float, last: float) -> list[Path]:
    """The parts whose months (UTC) touch ``first`` to ``last`` (epoch seconds); at least one
    file."""
    files = table_files(table)
    low, high = (
        limit if math.isinf(instant) else f"{datetime.fromtimestamp(instant, timezone.utc):%Y-%m}"
        for instant, limit in ((first, ""), (last, "~"))
    )
    return [file for file in files if low <= month_of(file) <= high] or files[:1]


def parquet_glob(table: Table) -> str:
    """The table's files as one path or pattern, for readers that want a text."""
    files = table_files(table)
    return str(files[0]) if Path(table.uri) == files[0] else f"{table.uri}/*.parquet"


def read_table(table: Table, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns, as Arrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables([pq.read_table(path, columns=columns) for path in table_files(table)])


def named(tables: Iterable[Table], name: str) -> Table:
    """The table called ``name``.

    Raises:
        StateError: there is none.
    """
    tables = list(tables)
    for table in tables:
        if table.name == name:
            return table
    raise StateError(f"no table {name!r} among {[t.name for t in tables]}")


def _write(table: pa.Table, path: Path) -> str:
    """Write one Parquet file; its digest. On disk before it has its name, which states that."""
    import pyarrow.parquet as pq

    # The bytes must not tell how the rows came together.
    pq.write_table(table.combine_chunks(), path, compression="zstd")
    sync(path)
    return file_digest(path)


@contextmanager
def _folder(home: Home) -> Iterator[Path]:
    """A temporary folder beside the tables; gone at the end unless it was renamed."""
    folder = home.path("tables", f".{uuid.uuid4().hex}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle(temporary: Path, target: Path) -> None:
    """Give a finished folder its content's name, unless that is there, whole."""
    sync(temporary)
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():
            raise
        if _sizes(target) == _sizes(temporary):
            os.utime(target)  # in use again: housekeeping leaves what is new
        else:  # it was cut since, or a part of it is gone
            target.rename(target.with_name(f".{uuid.uuid4().hex}.tmp"))
            temporary.rename(target)
    sync(target.parent)


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of a folder's files, by their names."""
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def _schema_hash(schema: pa.Schema) -> str:
    described = json.dumps([(f.name, str(f.type)) for f in schema])
    return hashlib.sha256(described.encode()).hexdigest()
