"""What a message of a stream is, and why one may not pass: the contract of the raw tables, and the
rules of the event logs and features that read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from feature_repo.contract import EventLog, RawTable, UseCase
from feature_repo.duckdb_session import connect
from feature_repo.errors import SourceError
from feature_repo.events import event_rules, sum_rules
from feature_repo.zones import mapped_table, with_column

if TYPE_CHECKING:
    import pyarrow as pa

    Row = Mapping[str, Any]
    Broken = Iterator[tuple[int, str]]  # places in a list of rows, and what is wrong with each

SKEW = timedelta(minutes=1)  # how far a sender's clock may be ahead of ours
TEXT = 1_000  # characters that a value may have
# Nanoseconds in 64 bits, as pandas counts them, reach from 1677 to 2262.
INSTANTS = (
    datetime(1678, 1, 1, tzinfo=timezone.utc), datetime(2262, 1, 1, tzinfo=timezone.utc),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A row of a raw table, whole, as it was known at ``reported_at`` (aware).

    ``row`` holds the stored table's columns: text, numbers, aware instants, None where nothing is
    known; further columns are ignored. The declared key says which row it is.
    """

    table: str
    row: Mapping[str, Any]
    reported_at: datetime


def faults(
    use_case: UseCase,
    schemas: Mapping[str, pa.Schema],
    messages: Sequence[Message],
    clock: datetime,
) -> list[str]:
    """Why each message may not pass; empty where it may. Whatever a message is, no other one is
    stopped by it.

    Args:
        use_case: declares the keys, the values that each column may hold, and what is made of them.
        schemas: columns of the stored raw tables.
        messages: in any order.
        clock: the stream's own time (aware); nothing is reported, and no fact is known, after it.
    """
    declared = {table.name: table for table in use_case.tables if table.name in schemas}
    found = [_form(use_case, declared, schemas, message, clock) for message in messages]
    for name in declared:
        for rule in (
            partial(_contract, use_case, name),
            partial(_events, use_case, name, schemas[name], clock),
        ):
            at = [i for i, m in enumerate(messages) if not found[i] and m.table == name]
            for i, reason in _asked(rule, [messages[i].row for i in at]):
                found[at[i]] = reason
    return found


def _form(
    use_case: UseCase, declared: Mapping[str, RawTable], schemas: Mapping[str, pa.Schema],
    message: Message, clock: datetime,
) -> str:  # fmt: skip
    """The first rule of form that a message breaks."""
    try:
        return _of_time(use_case, message, clock) or _of_row(declared, schemas, message)
    except Exception as exc:  # what a sender makes up may raise anything
        return f"it cannot be read ({line_of(exc)})"


def _of_time(use_case: UseCase, message: Message, clock: datetime) -> str:
    at = message.reported_at
    if reason := _unlike("reported_at", at, datetime):
        return reason
    if at > clock + SKEW:
        return f"reported_at {at.isoformat()} is later than {clock.isoformat()}"
    if at < clock - use_case.retention:
        return (
            f"reported_at {at.isoformat()} is more than {use_case.retention.days} days before "
            f"{clock.isoformat()}: what is that late comes with the files"
        )
    return ""


def _of_row(
    declared: Mapping[str, RawTable], schemas: Mapping[str, pa.Schema], message: Message
) -> str:
    if message.table not in declared:
        return f"there is no raw table {message.table!r}; there are {', '.join(declared)}"
    table, row = declared[message.table], message.row
    for field in schemas[message.table]:
        if field.name not in row:
            return f"column {field.name!r} is missing"
        if row[field.name] is None and field.name in (*table.key, table.time):
            return f"column {field.name!r} is null"
        if row[field.name] is not None and (
            reason := _unlike(field.name, row[field.name], _kind(field.type))
            or _unstored(field, row[field.name])
        ):
            return reason
    return ""


def _kind(dtype: pa.DataType) -> type:
    """The Python type that a column's values have in a message."""
    import pyarrow.types as types

    if types.is_floating(dtype):
        return float
    if types.is_integer(dtype):
        return int
    return datetime if types.is_timestamp(dtype) else str


def _unlike(name: str, value: Any, kind: type) -> str:
    """Why a value is not of a kind; empty where it is."""
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or isinstance(value, bool):
        return f"column {name!r} holds {_shown(value)}, which is no {kind.__name__}"
    if isinstance(value, str) and len(value) > TEXT:
        return f"column {name!r} holds {len(value):,} characters; {TEXT:,} is the most"
    if isinstance(value, datetime) and value.utcoffset() is None:
        return f"column {name!r} holds {value.isoformat()}, which states no zone"
    if isinstance(value, datetime) and not INSTANTS[0] <= value < INSTANTS[1]:
        return f"column {name!r} holds {value.isoformat()}; years are from 1678 to 2261"
    if isinstance(value, float) and not math.isfinite(value):
        return f"column {name!r} holds {value!r}; None says that a value is not known"
    return ""


def _unstored(field: pa.Field, value: Any) -> str:
    """Why a value of the right kind cannot be stored: an integer that is too large, a text that is
    no Unicode."""
    import pyarrow as pa

    try:
        pa.scalar(value, field.type)
    except (ValueError, OverflowError, pa.ArrowException) as exc:
        return (
            f"column {field.name!r} holds {_shown(value)}, which is no {field.type}: {line_of(exc)}"
        )
    return ""


def _asked(rule: Callable[[list[Row]], Broken], rows: list[Row]) -> list[tuple[int, str]]:
    """Rows that break a rule; asked of all at once, and of each alone where it cannot be."""
    if not rows:
        return []
    try:
        return list(rule(rows))
    except data_faults() as exc:
        if len(rows) == 1:
            return [(0, f"it cannot be checked ({line_of(exc)})")]
        return [(i, reason) for i, row in enumerate(rows) for _, reason in _asked(rule, [row])]


def _contract(use_case: UseCase, table: str, rows: list[Row]) -> Broken:
    """Rows that break a rule of the table's own contract, and which: the columns that files and
    stored tables share are held to the same Pandera checks."""
    import pandas as pd

    from feature_repo.quarantine import broken_checks, rule_columns

    if use_case.schemas is None:
        return
    schema = use_case.schemas()[table].to_schema()
    shared = [name for name in schema.columns if all(name in row for row in rows)]
    frame = pd.DataFrame([{name: row[name] for name in shared} for row in rows], columns=shared)
    part = schema.select_columns(shared)
    # A stored table may lack a column that a rule over several of them needs.
    part.checks = [rule for rule in part.checks if {*rule_columns(rule, schema)} <= {*shared}]
    # A value that is of no type at all keeps Pandera from the other rules of its column.
    while len(found := broken_checks(frame, part, table)):
        yield from zip(found["row"] - 1, found["reason"], strict=True)
        frame = frame[~frame.index.isin(found["row"] - 1)]


def _events(
    use_case: UseCase, table: str, schema: pa.Schema, clock: datetime, rows: list[Row]
) -> Broken:
    """Rows of which a log that maps this table makes an event that cannot be, or a value that no
    feature may have."""
    import pyarrow as pa

    known = [{name: row[name] for name in schema.names} for row in rows]
    told = pa.Table.from_pylist(known, schema=schema)
    told = told.append_column("_message", pa.array(range(len(rows))))
    logs = {view.log.name: view.log for view in use_case.views}
    with connect([]) as session:
        session.register(table, told)
        for log in logs.values():
            if mapped_table(log.sql) != table:
                continue
            tests = [*event_rules(log, clock), *_values(use_case, log), *sum_rules(use_case, log)]
            cases = " ".join(f"when {test} then {i}" for i, (test, _) in enumerate(tests))
            found = session.execute(
                f"select _message, case {cases} end as _broken from "
                f"({with_column(log.sql, '_message')}) where _broken is not null"
            ).fetchall()
            for place, broken in found:
                yield place, f"event log {log.name!r}: its events {tests[broken][1]}"


def _values(use_case: UseCase, log: EventLog) -> Iterator[tuple[str, str]]:
    """What no value may be (SQL) for the features that read a log, and what to say of it."""
    for spec in use_case.features:
        if spec.log != log:
            continue
        low, high = spec.bounds
        if spec.aggregation in ("last", "mean") and math.isfinite(high - low):
            rule = f'not ("{spec.value}" between {low!r} and {high!r})'
            yield rule, f"have a {spec.value} outside [{low:g}, {high:g}] of {spec.name!r}"


def data_faults() -> tuple[type[Exception], ...]:
    """What values may raise that nobody foresaw. A damaged file may raise the same, and so may a
    program's own fault: the stored files are held against their digests before a message is blamed
    (``tables.check_whole``), and what was set aside can be taken in again (``stream.retry``)."""
    import duckdb

    found = (duckdb.DataError, duckdb.InvalidInputException)
    return (SourceError, ValueError, TypeError, ArithmeticError, *found)


def _shown(value: Any) -> str:
    """A value in a reason: short, and printable whatever it is."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def line_of(exc: Exception) -> str:
    """An error in a reason: its first line, printable whatever it quotes."""
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return text[:300].encode("ascii", "backslashreplace").decode()
