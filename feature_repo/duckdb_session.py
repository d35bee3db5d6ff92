"""DuckDB sessions over stored tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import DeclarationError
from feature_repo.tables import Table, table_files

if TYPE_CHECKING:
    import duckdb

FILE = "_file"
NANOSECONDS = "TIMESTAMPTZ_NS"  # DuckDB's type of instants in UTC that are too fine for it
IN_MICROSECONDS = (
    "store the raw table's instants in microseconds, cast('timestamp[us, UTC]') in pyarrow"
)
IN_BOTH = (
    "use tables and columns that are stored, and functions that both Spark and DuckDB have: for a "
    "span of minutes x * interval '1' minute"
)
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


@contextmanager
def declared_sql(where: str) -> Iterator[None]:
    """Around the first look at SQL that a use case declares; ``where`` names it.

    Raises:
        DeclarationError: DuckDB cannot run it.
    """
    import duckdb

    try:
        yield
    except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException) as exc:
        said = str(exc).splitlines()[0]
        raise DeclarationError(
            f"{where}: DuckDB cannot run its SQL ({said}); "
            + (IN_MICROSECONDS if NANOSECONDS in said else IN_BOTH)
        ) from exc
