"""The SQL of a declaration, parsed: what it reads, what it yields, and that it yields it again.

sqlglot costs, so only a run's first step (``tasks.state``) and a test of every use case call it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_repo.checks import REQUEST, needed, not_yielded
from feature_repo.errors import DeclarationError

if TYPE_CHECKING:
    import sqlglot.expressions as exp

    from feature_repo.contract import UseCase

# SQL that yields something else each time it runs, by sqlglot's names and by Spark's.
VOLATILE = (
    "CurrentTimestamp", "CurrentDate", "CurrentTime", "CurrentDatetime", "Localtimestamp",
    "Localtime", "Rand", "Randn", "Uuid", "Shuffle",
)  # fmt: skip
VOLATILE_TOO = ("now", "monotonically_increasing_id", "input_file_name", "spark_partition_id")


def check_sql(use_case: UseCase) -> None:
    """Hold every event log and the requests against the columns that their SQL yields.

    Raises:
        DeclarationError: SQL that cannot be parsed, a ``*``, a raw table or column that is not
            there, a column whose name is the platform's, a function of the clock or of chance.
    """
    where = f"use case {use_case.name!r}"
    tables = {table.name for table in use_case.tables}
    yields: dict[str, set[str]] = {}
    for log in {spec.log.name: spec.log for spec in use_case.features}.values():
        yields[log.name] = _yields(f"{where}, event log {log.name!r}", log.sql, tables)
    for spec in use_case.features:
        for column, what in needed(spec):
            if column.lower() not in yields[spec.log.name]:
                at = f"{where}, feature {spec.name!r}"
                raise DeclarationError(not_yielded(at, spec.log, column, what))
    asked = _yields(f"{where}, requests_sql", use_case.requests_sql, tables)
    for column in (*REQUEST, *(field.name for field in use_case.fields), *use_case.measures):
        if column not in asked:
            raise DeclarationError(
                f"{where}: requests_sql does not yield the column {column!r}; add it to the SELECT"
            )


def _yields(at: str, sql: str, tables: set[str]) -> set[str]:
    """Lower-case names of the columns that a query in Spark's dialect yields."""
    import sqlglot
    from sqlglot import exp

    from feature_repo.dialect import differing

    try:
        query = sqlglot.parse_one(sql, read="spark")
    except sqlglot.errors.SqlglotError as exc:
        reason = str(exc).splitlines()[0]
        raise DeclarationError(f"{at}: the SQL cannot be parsed ({reason}); mend it") from exc
    if not isinstance(query, exp.Query):
        raise DeclarationError(f"{at}: the SQL is no SELECT; write one SELECT")
    for table in sorted(_read(query) - tables):
        raise DeclarationError(
            f"{at}: the SQL reads {table!r}, which is no raw table of the use case "
            f"({', '.join(sorted(tables))}); add it to tables"
        )
    if query.is_star:
        raise DeclarationError(f"{at}: SELECT * hides what is yielded; name the columns")
    for call in query.find_all(exp.Func):
        name = call.name if isinstance(call, exp.Anonymous) else type(call).__name__
        if name in VOLATILE or name.lower() in VOLATILE_TOO:
            raise DeclarationError(
                f"{at}: {call.sql('spark')} yields something else each time, so nothing could be "
                "computed again; store the value in a raw table"
            )
    if unlike := differing(query):
        raise DeclarationError(
            f"{at}: {unlike} is cut on Spark and rounded on DuckDB; write floor(), or a double"
        )
    columns = {name.lower() for name in query.named_selects}
    for name in sorted(columns):
        if name.startswith("_"):
            raise DeclarationError(
                f"{at}: the column {name!r} begins with _, as the platform's own do; rename it"
            )
    return columns


def _read(query: exp.Query) -> set[str]:
    """Tables that a query reads, its own WITH parts aside."""
    from sqlglot import exp

    own = {part.alias_or_name for part in query.find_all(exp.CTE)}
    return {table.name for table in query.find_all(exp.Table)} - own
