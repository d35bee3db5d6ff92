"""What a message of a stream is, and why one may not pass: the contract of the raw tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.contract import RawTable, UseCase

if TYPE_CHECKING:
    import pyarrow as pa

SKEW = timedelta(minutes=1)  # how far a sender's clock may be ahead of ours


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
    """Why each message may not pass; empty where it may.

    Args:
        use_case: declares the keys, and the values that each column may hold.
        schemas: columns of the stored raw tables.
        messages: in any order.
        clock: the stream's own time (aware); nothing is reported after it.
    """
    declared = {table.name: table for table in use_case.tables if table.name in schemas}
    found = [_fault(declared, schemas, message, clock) for message in messages]
    for name in declared:
        at = [i for i, m in enumerate(messages) if m.table == name and not found[i]]
        for i, reason in _broken(use_case, name, [messages[i].row for i in at]):
            found[at[i]] = reason
    return found


def _fault(
    declared: Mapping[str, RawTable], schemas: Mapping[str, pa.Schema], message: Message,
    clock: datetime,
) -> str:  # fmt: skip
    """The first rule of form that a message breaks."""
    if reason := _unlike("reported_at", message.reported_at, datetime):
        return reason
    if message.reported_at > clock + SKEW:
        return f"reported_at {message.reported_at.isoformat()} is later than {clock.isoformat()}"
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
        return f"column {name!r} holds {value!r}, which is no {kind.__name__}"
    if isinstance(value, datetime) and value.utcoffset() is None:
        return f"column {name!r} holds {value.isoformat()}, which states no zone"
    if isinstance(value, float) and not math.isfinite(value):
        return f"column {name!r} holds {value!r}; None says that a value is not known"
    return ""


def _broken(
    use_case: UseCase, table: str, rows: list[Mapping[str, Any]]
) -> Iterator[tuple[int, str]]:
    """Rows that break a rule of the table's own contract, and which: the columns that files and
    stored tables share are held to the same Pandera checks."""
    import pandas as pd

    from feature_repo.ingest import broken_checks, rule_columns

    if not rows or use_case.schemas is None:
        return
    schema = use_case.schemas()[table].to_schema()
    shared = [name for name in schema.columns if all(name in row for row in rows)]
    frame = pd.DataFrame([{name: row[name] for name in shared} for row in rows], columns=shared)
    part = schema.select_columns(shared)
    # A stored table may lack a column that a rule over several of them needs.
    part.checks = [rule for rule in part.checks if {*rule_columns(rule, schema)} <= {*shared}]
    found = broken_checks(frame, part, table)
    yield from zip(found["row"] - 1, found["reason"], strict=True)
