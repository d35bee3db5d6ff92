"""DuckDB sessions over stored tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.tables import Table, table_files

if TYPE_CHECKING:
    import duckdb

FILE = "_file"
MEMORY = "3GB"  # what one session of DuckDB may hold; beyond it, DuckDB spills to disk


def connect(tables: Iterable[Table]) -> duckdb.DuckDBPyConnection:
    """A DuckDB session in UTC with each table as a view under its name."""
    import duckdb

    spill = str(Path(tempfile.gettempdir()) / "airworthy-duckdb")
    connection = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": spill})
    connection.execute("SET TimeZone = 'UTC'")
    for table in tables:
        bind(connection, table.name, table_files(table))
    return connection


def bind(
    connection: duckdb.DuckDBPyConnection, name: str, files: Iterable[Path], filename: bool = False
) -> None:
    """Let ``name`` be a view of Parquet files (at least one), in place of an older one;
    ``filename`` adds the column ``FILE``, which names each row's file."""
    listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
    options = f", filename = '{FILE}'" if filename else ""
    connection.execute(
        f'CREATE OR REPLACE TEMP VIEW "{name}" AS SELECT * FROM read_parquet([{listed}]{options})'
    )
