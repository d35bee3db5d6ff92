"""What lies before a feature view: the raw tables that its event log reads."""

from __future__ import annotations

from feature_repo.contract import EventLog


def tables_of(log: EventLog) -> tuple[str, ...]:
    """Raw tables that a log's SQL reads, sorted; a common table expression is none."""
    import sqlglot
    import sqlglot.expressions as exp

    query = sqlglot.parse_one(log.sql, read="spark")
    own = {cte.alias_or_name for cte in query.find_all(exp.CTE)}
    return tuple(sorted({table.name for table in query.find_all(exp.Table)} - own))
