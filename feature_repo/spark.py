"""Runs the feature SQL on Spark, where one machine is outgrown: the text that DuckDB runs too.

The tables are those that ``feature_repo.engine`` makes, byte for byte, so either engine goes on
where the other one stopped. The executors read and write the home: a folder that all of them
mount. What the driver holds at a time is one month of one view.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureView, UseCase
from feature_repo.engine import TRAINING_SET, Built, Session, last_rows, last_tick, open_session
from feature_repo.home import Home
from feature_repo.sql import Reach, view_sql
from feature_repo.tables import Table, table_files, write_parts, write_table
from feature_repo.training_sql import training_set_sql

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

    from feature_repo.schemas import TableSchema

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",  # an overflow stops the run instead of becoming a null
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


def build_views_on_spark(
    spark: SparkSession,
    home: Home,
    use_case: UseCase,
    tables: list[Table],
    until: datetime | None = None,
) -> Built:
    """Every feature view from its first event on: what ``engine.build_views`` makes.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    session = open_session(home, use_case, tables)
    end = last_tick(session, until)
    own = _session_of(spark, tables)
    made = [_store_view(session, own, view, end) for view in use_case.views]
    views, states = zip(*made, strict=True)
    return Built(end * session.seconds, tables, list(views), list(states), session.zones)


def build_training_set_on_spark(
    spark: SparkSession, home: Home, use_case: UseCase, tables: list[Table], views: list[Table]
) -> Table:
    """Every request with the features of its tick: what ``engine.build_training_set`` makes.

    Raises:
        SourceError: a value outside its declared bounds, or a request twice.
    """
    from feature_repo.schemas import training_set_schema

    own, schema = _session_of(spark, [*tables, *views]), training_set_schema(use_case)
    sql, order = training_set_sql(use_case), ("prediction_time", "request_id")
    with _months(own, home, sql, "prediction_time", order) as months:
        return write_parts(home, TRAINING_SET, _checked(months, schema))


def _session_of(spark: SparkSession, tables: Sequence[Table]) -> SparkSession:
    """A session with settings and names of its own, each table a view under its name."""
    own = spark.newSession()
    for key, value in SETTINGS.items():
        own.conf.set(key, value)
    for table in tables:
        files = [str(file) for file in table_files(table)]
        own.read.parquet(*files).createOrReplaceTempView(table.name)
    return own


def _store_view(
    session: Session, own: SparkSession, view: FeatureView, end: int
) -> tuple[Table, Table]:
    """Compute a view up to the tick ``end``; the stored view, and its state there."""
    from feature_repo.schemas import view_schema

    state: pa.Table | None = None

    def parts(months: Iterator[tuple[str, pa.Table]]) -> Iterator[tuple[str, pa.Table]]:
        nonlocal state
        for month, rows in _checked(months, view_schema(view)):
            state = last_rows(session, view, rows, state)
            yield month, rows

    sql = view_sql(view, session.use_case.tick, Reach(last=end))
    order = (*view.entity.keys, "event_timestamp")
    with _months(own, session.home, sql, "event_timestamp", order) as months:
        stored = write_parts(session.home, view.name, parts(months))
    return stored, write_table(session.home, f"state_{view.name}", state)


def _checked(
    months: Iterator[tuple[str, pa.Table]], schema: TableSchema
) -> Iterator[tuple[str, pa.Table]]:
    """The months, each held against its table's schema."""
    from feature_repo.schemas import validate_table

    for month, rows in months:
        validate_table(rows, schema)
        yield month, rows


@contextmanager
def _months(
    own: SparkSession, home: Home, sql: str, instant: str, order: tuple[str, ...]
) -> Iterator[Iterator[tuple[str, pa.Table]]]:
    """The query's rows by the month of a column, ordered within: written by the executors into
    a folder that is gone at the end, read back month by month."""
    from pyspark.sql import functions as spark

    folder = home.path("tables", f".{uuid.uuid4().hex}.tmp")
    month = spark.date_format(instant, "yyyy-MM").alias("month")
    try:
        frame = own.sql(sql).select("*", month).repartition("month")
        frame = frame.sortWithinPartitions("month", *order)
        frame.write.partitionBy("month").parquet(str(folder))
        yield _read_months(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_months(folder: Path) -> Iterator[tuple[str, pa.Table]]:
    """Each month's rows, in the order in which they were written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("month=*")):
        parts = [pq.ParquetFile(part).read() for part in sorted(path.glob("part-*.parquet"))]
        # Spark calls some columns not nullable, DuckDB none.
        kinds = pa.schema([(field.name, field.type) for field in parts[0].schema])
        yield path.name.partition("=")[2], pa.concat_tables(parts).cast(kinds).combine_chunks()
