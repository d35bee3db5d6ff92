"""Event logs held against the data: every event has its two instants, in UTC, in an order that
can be, and none from the future. What belongs to no entity is counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from feature_repo.checks import DIGITS
from feature_repo.contract import EventLog, FeatureSpec, UseCase
from feature_repo.dialect import to_duckdb, tuned
from feature_repo.duckdb_session import IN_MICROSECONDS, NANOSECONDS, bind, connect, declared_sql
from feature_repo.errors import SourceError
from feature_repo.tables import Table, table_files
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
        DeclarationError: DuckDB cannot run the log's SQL.
    """
    import duckdb

    where = f"use case {use_case.name!r}, event log {log.name!r}"
    _check_types(connection, log, where)
    rules = [*event_rules(log, as_of), *sum_rules(use_case, log)]
    entities = {v.entity.name: v.entity.keys for v in use_case.views if v.log.name == log.name}
    tests = [test for test, _ in rules]
    tests += [" or ".join(f"{key} is null" for key in keys) for keys in entities.values()]
    counts = "".join(f", count(*) filter (where {test})" for test in tests)
    try:
        connection.execute(f"select count(*){counts} from ({tuned(log.sql)})")
    except duckdb.DataError as exc:
        raise SourceError(
            f"{where}: its SQL meets a value that it cannot compute with "
            f"({str(exc).splitlines()[0]}); bound the column in the source's schema, or filter it "
            "out in the log's SQL"
        ) from exc
    events, *found = connection.fetchall()[0]
    for (test, message), count in zip(rules, found[: len(rules)], strict=True):
        if count:
            shown = _examples(connection, use_case, log, test)
            raise SourceError(f"{where}: {count:,} of {events:,} events {message}; {shown}")
    unkeyed = tuple(zip(entities, found[len(rules) :], strict=True))
    return EventCounts(log=log.name, events=events, unkeyed=unkeyed)


def _check_types(connection: duckdb.DuckDBPyConnection, log: EventLog, where: str) -> None:
    """A clock without a zone would be taken for UTC; nanoseconds would be cut off."""
    with declared_sql(where):
        connection.execute(f"describe select * from ({to_duckdb(log.sql)})")
    types = {row[0]: row[1] for row in connection.fetchall()}
    for name in INSTANTS:
        if types[name] == NANOSECONDS:
            raise SourceError(
                f"{where}: {name} is in nanoseconds ({NANOSECONDS}); {IN_MICROSECONDS}"
            )
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
    rules.append(
        (
            "least(event_timestamp, available_at) < timestamptz '1970-01-01 00:00:00Z'",
            "lie before 1970, from where ticks are counted; mend the instants",
        )
    )
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


def sum_rules(use_case: UseCase, log: EventLog) -> list[tuple[str, str]]:
    """What no value may be (SQL) that the log's features add up: one that their decimals do not
    hold. Engines would round it, and not alike."""
    rules: dict[str, tuple[str, FeatureSpec]] = {}
    for spec in use_case.features:
        if spec.log != log or spec.aggregation not in ("sum", "mean"):
            continue
        for names in ((spec.value, spec.weight), (spec.weight,)):
            named = [name for name in names if name]
            if test := named and _inexact(" * ".join(f'"{n}"' for n in named), spec.decimals):
                rules.setdefault(test, (" * ".join(named), spec))
    return [
        (
            test,
            f"have a {what} that is no number of {spec.decimals} decimals and "
            f"{DIGITS - spec.decimals} digits before them, as {spec.name!r} sums it up: round it "
            f"in the log's SQL, floor(x * 1e{spec.decimals} + 0.5) / 1e{spec.decimals}, or "
            "declare other decimals",
        )
        for test, (what, spec) in rules.items()
    ]


def _inexact(term: str, decimals: int) -> str:
    """Whether a number is another one as a decimal; what a double cannot hold aside (.1 * 3)."""
    number = f"cast({term} as double)"
    exact = f"cast(try_cast({number} as decimal({DIGITS},{decimals})) as double)"
    near = f"abs({exact} - {number}) <= 1e-{decimals + 3} + abs({number}) * 1e-15"
    return f"{number} is not null and not coalesce({near}, false)"


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
