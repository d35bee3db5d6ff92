"""Runs the feature SQL on Spark, where one machine is outgrown: the text that DuckDB runs too.

The stored tables have the columns, types, values and order of those that ``feature_repo.engine``
makes. Driver and executors read and write the home, a folder that all of them mount.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from feature_repo.contract import UseCase
from feature_repo.engine import TRAINING_SET
from feature_repo.home import Home
from feature_repo.sql import training_set_sql, view_sql
from feature_repo.tables import Table, table_path, write_table

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # an overflow stops the run instead of becoming a null
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


def compute_views_on_spark(
    session: SparkSession, home: Home, use_case: UseCase, tables: list[Table]
) -> list[Table]:
    """One stored table per feature view, checked against its declaration.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    from feature_repo.schemas import validate_table, view_schema

    own, made = _open(session, tables), []
    for view in use_case.views:
        table = _run(own, home, view_sql(view, use_case.tick))
        validate_table(table, view_schema(view))
        made.append(write_table(home, view.name, table))
    return made


def build_training_set_on_spark(
    session: SparkSession, home: Home, use_case: UseCase, tables: list[Table], views: list[Table]
) -> Table:
    """Every request with the features of its tick, its label and when the label was known.

    Raises:
        SourceError: a value outside its declared bounds, or a request twice.
    """
    from feature_repo.schemas import training_set_schema, validate_table

    table = _run(_open(session, [*tables, *views]), home, training_set_sql(use_case))
    validate_table(table, training_set_schema(use_case))
    return write_table(home, TRAINING_SET, table)


def _open(session: SparkSession, tables: Iterable[Table]) -> SparkSession:
    """A session with settings and names of its own, each table a view under its name."""
    own = session.newSession()
    for key, value in SETTINGS.items():
        own.conf.set(key, value)
    for table in tables:
        own.read.parquet(str(table_path(table))).createOrReplaceTempView(table.name)
    return own


def _run(session: SparkSession, home: Home, sql: str) -> pa.Table:
    """The query's result, written by the executors and read back in its order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = home.path("tables", f".{uuid.uuid4().hex}.tmp")
    try:
        session.sql(sql).write.parquet(str(folder))
        # Parts are numbered in the order that the query asks for.
        parts = [pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))]
        # Spark calls some columns not nullable, DuckDB none.
        kinds = pa.schema([(field.name, field.type) for field in parts[0].schema])
        return pa.concat_tables(parts).cast(kinds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
