"""Runs the feature SQL on DuckDB: raw tables to views, views and requests to the training set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from feature_repo.contract import UseCase
from feature_repo.home import Home
from feature_repo.sql import to_duckdb, training_set_sql, view_sql
from feature_repo.tables import Table, connect, write_table

if TYPE_CHECKING:
    import pyarrow as pa

TRAINING_SET = "training_set"


def compute_views(home: Home, use_case: UseCase, tables: list[Table]) -> list[Table]:
    """One stored table per feature view, checked against its declaration.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
    """
    from feature_repo.schemas import validate_table, view_schema

    made = []
    for view in use_case.views:
        table = _run(tables, view_sql(view, use_case.tick))
        validate_table(table, view_schema(view))
        made.append(write_table(home, view.name, table))
    return made


def build_training_set(
    home: Home, use_case: UseCase, tables: list[Table], views: list[Table]
) -> Table:
    """Every request with the features of its tick, its label and when the label was known.

    Raises:
        SourceError: a value outside its declared bounds, or a request twice.
    """
    from feature_repo.schemas import training_set_schema, validate_table

    table = _run([*tables, *views], training_set_sql(use_case))
    validate_table(table, training_set_schema(use_case))
    return write_table(home, TRAINING_SET, table)


def _run(tables: Iterable[Table], sql: str) -> pa.Table:
    """The query's result as Arrow."""
    with connect(tables) as connection:
        return connection.sql(to_duckdb(sql)).to_arrow_table()
