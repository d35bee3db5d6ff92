"""Tables named by the digest of their content: what passes between the steps of a pipeline."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from feature_repo.home import Home, file_digest

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A Parquet file in content-addressed storage. Flat, so that it shows well in the console.

    ``digest`` is the sha256 of the file, ``schema_hash`` that of its column names and types.
    """

    name: str
    uri: str
    digest: str
    schema_hash: str
    rows: int


def write_table(home: Home, name: str, table: pa.Table) -> Table:
    """Store an Arrow table under the digest of its bytes; the same content is stored once."""
    import pyarrow.parquet as pq

    temporary = home.path("tables", f".{uuid.uuid4().hex}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    digest = file_digest(temporary)
    path = home.path("tables", f"{digest}.parquet")
    temporary.replace(path)
    schema = json.dumps([(f.name, str(f.type)) for f in table.schema])
    schema_hash = hashlib.sha256(schema.encode()).hexdigest()
    return Table(name, str(path), digest, schema_hash, table.num_rows)


def table_path(table: Table) -> Path:
    """The table's file.

    Raises:
        StateError: it is gone (a clean-up ran, or the home was moved).
    """
    path = Path(table.uri)
    if not path.exists():
        raise StateError(
            f"table {table.name!r} ({table.digest[:12]}) is no longer at {path}; run again with "
            "'pyflyte run --overwrite-cache', which makes it anew"
        )
    return path


def read_table(table: Table) -> pa.Table:
    """The whole table as Arrow."""
    import pyarrow.parquet as pq

    return pq.read_table(table_path(table))


def connect(tables: Iterable[Table]) -> duckdb.DuckDBPyConnection:
    """A DuckDB session in UTC with each table as a view under its name."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for table in tables:
        path = str(table_path(table)).replace("'", "''")
        connection.execute(f"CREATE VIEW \"{table.name}\" AS SELECT * FROM read_parquet('{path}')")
    return connection


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
