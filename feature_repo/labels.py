"""Labels of recorded answers: which request each one was about, and whether its label is known."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from feature_repo.dialect import tuned
from feature_repo.duckdb_session import connect
from feature_repo.errors import DeclarationError
from feature_repo.tables import Table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from feature_repo.contract import UseCase

_SQL = {"string": "VARCHAR", "number": "DOUBLE", "timestamp": "TIMESTAMPTZ"}


def identity_of(use_case: UseCase) -> dict[str, str]:
    """Fields that name what a request is about, and DuckDB's type of each."""
    kinds = {f.name: _SQL[f.dtype] for f in use_case.fields}
    stated = use_case.identity or [f.name for f in use_case.fields if f.dtype != "number"]
    return {name: kinds[name] for name in stated}


def join_labels(
    use_case: UseCase, tables: list[Table], answers: pa.Table, until: datetime
) -> pa.Table:
    """Answers with the labels that were available at ``until`` (aware), by the request's identity.

    Args:
        use_case: whose requests they are.
        tables: its raw tables, as they are now.
        answers: one row an answer, among its columns ``id`` and ``fields`` (JSON).

    Returns:
        The columns of ``answers`` but ``fields``; ``entity`` (what was asked about, as a text; null
        where the fields do not say), ``event_time``, and ``label`` and ``available_at``, which are
        null until the label is available; in order of id.

    Raises:
        DeclarationError: several requests have the same identity.
    """
    kinds = identity_of(use_case)
    names = ", ".join(kinds)
    asked = ", ".join(f"TRY_CAST(fields->>'$.{n}' AS {kind}) AS {n}" for n, kind in kinds.items())
    known = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in kinds.items())
    stated = " AND ".join(f"{name} IS NOT NULL" for name in kinds)
    session = connect(tables)
    session.register("_answers", answers.select([c for c in answers.column_names if c != "fields"]))
    session.register("_fields", answers.select(["id", "fields"]))
    session.execute(f"CREATE TEMP TABLE _asked AS SELECT id, {asked} FROM _fields")
    session.execute(
        f"CREATE TEMP TABLE _known AS SELECT * FROM (SELECT {known}, event_time, label, "
        f"label_available_at AS available_at FROM ({tuned(use_case.requests_sql)})) "
        f"SEMI JOIN _asked USING ({names})"
    )
    _check_distinct(use_case, session, names)
    there = "available_at <= $until AND label IS NOT NULL"
    found: pa.Table = session.sql(
        f"SELECT _answers.*, CASE WHEN {stated} THEN concat_ws('_', {names}) END AS entity, "
        f"event_time, CASE WHEN {there} THEN label END AS label, "
        f"CASE WHEN {there} THEN available_at END AS available_at "
        f"FROM _asked LEFT JOIN _known USING ({names}) JOIN _answers USING (id) ORDER BY id",
        params={"until": until},
    ).to_arrow_table()
    return found


def _check_distinct(use_case: UseCase, session: duckdb.DuckDBPyConnection, names: str) -> None:
    twice = session.execute(
        f"SELECT concat_ws(', ', {names}), count(*) FROM _known GROUP BY {names} "
        "HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
    ).fetchone()
    if twice is not None:
        raise DeclarationError(
            f"use case {use_case.name!r}: {twice[1]} requests have the identity {names} of "
            f"{twice[0]}, so no label can be given to an answer; add the field that tells them "
            "apart to identity"
        )
