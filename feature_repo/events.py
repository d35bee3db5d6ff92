"""Event logs held against the data: every event has its two instants, in UTC, in an order that
can be, and none from the future. What belongs to no entity is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from feature_repo.contract import EventLog, UseCase
from feature_repo.dialect import to_duckdb, tuned
from feature_repo.errors import SourceError
from feature_repo.tables import Table, bind, connect, table_files
from feature_repo.zones import mapped_table

if TYPE_CHECKING:
    import duckdb

INSTANTS = ("event_timestamp", "available_at")
UTC = "TIMESTAMP WITH TIME ZONE"


@dataclass(frozen=True, kw_only=True, slots=True)
class EventCounts:
    """Events of one log, and by entity how many of them lack a key: no view of it sees those."""

    log: str
    events: int
    unkeyed: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """'2,512 of 336,776 departures have no tail'; empty where every event has its keys."""
        return ", ".join(
            f"{count:,} of {self.events:,} {self.log} have no {entity}"
            for entity, count in self.unkeyed
            if count
        )


def check_logs(
    use_case: UseCase, tables: Iterable[Table], before: Iterable[Table]
) -> list[EventCounts]:
    """``check_events`` of every log as of now, over the parts of the raw tables that ``before``
    has not.

    A log of several tables is looked at as a whole; one without a new part not at all.
    """
    now = datetime.now(timezone.utc)
    files = {table.name: table_files(table) for table in tables}
    seen = {path.name for table in before for path in table_files(table)}
    fresh = {name: [p for p in paths if p.name not in seen] for name, paths in files.items()}
    counts = []
    with connect(()) as connection:
        for log in {view.log.name: view.log for view in use_case.views}.values():
            mapped = mapped_table(log.sql)
            if not (fresh.get(mapped, []) if mapped else any(fresh.values())):
                continue
            for name, paths in files.items():
                bind(connection, name, fresh[name] if name == mapped else paths)
            counts.append(check_events(connection, use_case, log, now))
    return counts


def check_events(
    connection: duckdb.DuckDBPyConnection, use_case: UseCase, log: EventLog, as_of: datetime
) -> EventCounts:
    """Hold a log's events against the rules of ``EventLog``, in one pass.

    Args:
        connection: a session that has the raw tables, or those parts of them that are new.
        use_case: the one that the log belongs to.
        log: the event log.
        as_of: the present (aware). What passes now passes later too, so a step that was cached
            need not look again.

    Raises:
        SourceError: names log, rule, count, three events and the way out.
    """
    where = f"use case {use_case.name!r}, event log {log.name!r}"
    _check_types(connection, log, where)
    rules = event_rules(log, as_of)
    entities = {v.entity.name: v.entity.keys for v in use_case.views if v.log.name == log.name}
    tests = [test for test, _ in rules]
    tests += [" or ".join(f"{key} is null" for key in keys) for keys in entities.values()]
    counts = "".join(f", count(*) filter (where {test})" for test in tests)
    connection.execute(f"select count(*){counts} from ({tuned(log.sql)})")
    events, *found = connection.fetchall()[0]
    for (test, message), count in zip(rules, found[: len(rules)], strict=True):
        if count:
            shown = _examples(connection, use_case, log, test)
            raise SourceError(f"{where}: {count:,} of {events:,} events {message}; {shown}")
    unkeyed = tuple(zip(entities, found[len(rules) :], strict=True))
    return EventCounts(log=log.name, events=events, unkeyed=unkeyed)


def _check_types(connection: duckdb.DuckDBPyConnection, log: EventLog, where: str) -> None:
    """A clock without a zone would be taken for UTC."""
    connection.execute(f"describe select * from ({to_duckdb(log.sql)})")
    types = {row[0]: row[1] for row in connection.fetchall()}
    for name in INSTANTS:
        if types[name] != UTC:
            raise SourceError(
                f"{where}: {name} is {types[name]}, not an instant in UTC ({UTC}): the clock's "
                "zone is not stated; convert it to UTC when the raw table is stored, or in the "
                "log's SQL with to_utc_timestamp"
            )


def event_rules(log: EventLog, as_of: datetime) -> list[tuple[str, str]]:
    """What no event may be (SQL), and what to say of those that are."""
    rules = [
        (
            f"{name} is null",
            f"have no {name}: nothing says when they {what}; give it, or filter them out in the "
            "log's SQL",
        )
        for name, what in zip(INSTANTS, ("happened", "became known"), strict=True)
    ]
    if log.scheduled:
        return rules
    return [
        *rules,
        (
            "available_at < event_timestamp",
            "were known before they happened (available_at < event_timestamp); mend the instants, "
            "or declare the log as scheduled",
        ),
        (
            f"available_at > timestamptz '{as_of.isoformat()}'",
            f"become known only after {as_of:%Y-%m-%dT%H:%M:%SZ}, the present: a clock in local "
            "time, or a wrong date; mend them, or declare the log as scheduled",
        ),
    ]


def _examples(
    connection: duckdb.DuckDBPyConnection, use_case: UseCase, log: EventLog, test: str
) -> str:
    """Three events that break a rule: their keys and instants."""
    keys = dict.fromkeys(k for v in use_case.views if v.log.name == log.name for k in v.entity.keys)
    columns = ", ".join((*keys, *(f"cast({name} as varchar)" for name in INSTANTS)))
    connection.execute(
        f"select {columns} from ({to_duckdb(log.sql)}) where {test} order by all limit 3"
    )
    names = (*keys, *INSTANTS)
    shown = (
        ", ".join(f"{name} = {value}" for name, value in zip(names, row, strict=True))
        for row in connection.fetchall()
    )
    return "for example " + "; ".join(f"({text})" for text in shown)
