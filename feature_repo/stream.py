"""A stream's step: messages into the raw tables, the features on to a tick, the online store after.

The version record of the offline store is the one point of commitment: it names the raw tables,
the views and how many messages are in them, and is written last and whole. A step that was killed
before it begins again from the version before; one that was killed after it fills the online
store again. So no message is lost, and none counts twice. A message that breaks a step is found by
halving and set aside, and the step goes on without it; not so where a stored file is damaged, which
stops the step. What was set aside may be taken in again (``retry``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo import offline
from feature_repo.contract import RawTable, UseCase
from feature_repo.duckdb_session import FILE, bind, connect
from feature_repo.home import Home
from feature_repo.inbox import Counting, Inbox, Received, inbox_path
from feature_repo.messages import Message, data_faults, line_of
from feature_repo.online_rows import rows_of
from feature_repo.packed import STATE, unpack_state
from feature_repo.services import older_services
from feature_repo.store import Materialisation, materialise
from feature_repo.tables import (
    Table,
    by_month,
    check_whole,
    month_of,
    named,
    parts_of,
    stored_schema,
    table_files,
    write_parts,
    write_table,
)

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class Advanced:
    """A step's version, the online store after it, how many messages it read, and why it set some
    of them aside."""

    version: offline.Version
    online: Materialisation
    messages: int
    refused: tuple[str, ...]


def receive(
    home: Home, use_case: UseCase, messages: Sequence[Message], clock: datetime
) -> Received:
    """Put messages into the use case's inbox; on disk when this returns. ``clock``: the stream's
    own time (aware), which no message may be reported after.

    Raises:
        StateError: the use case has no raw tables that can be read, or the inbox cannot be written.
    """
    tables = offline.newest(home, use_case).built.tables
    schemas = {table.name: stored_schema(table) for table in tables}
    with closing(Inbox(home, use_case)) as inbox:
        return inbox.append(messages, schemas, clock)


def advance(home: Home, use_case: UseCase, until: datetime) -> Advanced:
    """Take in what came since the newest version, and bring views and online store to the last
    tick at or before ``until`` (aware). The store never goes back in time: one that is of a later
    tick stays at it, with what is known now.

    Raises:
        SourceError: a value outside its declared bounds, or a key twice.
        StateError: there is no version yet, a stored file is missing or damaged, or a store cannot
            be used; every message waits in the inbox.
    """
    with home.lock(f"stream-{use_case.name}"), closing(Inbox(home, use_case)) as inbox:
        before = offline.newest(home, use_case).offset
        with closing(rows_of(home, use_case)) as store:
            (held,) = store.get([STATE])
        wanted = max(until, unpack_state(held).tick) if held else until
        version, refused = _taken(home, use_case, inbox, wanted)
        online = _fill(home, use_case, version, wanted)
    return Advanced(
        version=version, online=online, messages=version.offset - before, refused=tuple(refused)
    )


def _fill(
    home: Home, use_case: UseCase, version: offline.Version, until: datetime
) -> Materialisation:
    if until < version.until:
        return materialise(home, use_case, version.built.views, until)
    states = [
        replace(named(version.built.states, f"state_{view.name}"), name=view.name)
        for view in use_case.views
    ]
    return materialise(home, use_case, states, version.until)


def take_in(home: Home, use_case: UseCase) -> tuple[offline.Version, list[str]]:
    """The newest version with every message in it, at the tick that it has, and why some were set
    aside. One that was made from the source has none, and would hide what is served meanwhile.

    Raises: see ``advance``.
    """
    newest = offline.newest(home, use_case)
    if not inbox_path(home, use_case).exists():
        return newest, []
    with home.lock(f"stream-{use_case.name}"), closing(Inbox(home, use_case)) as inbox:
        return _taken(home, use_case, inbox, newest.until)


def _taken(
    home: Home, use_case: UseCase, inbox: Inbox, until: datetime
) -> tuple[offline.Version, list[str]]:
    """The version with every message that it can hold, and why others were set aside."""
    end = inbox.last
    try:
        return _step(home, use_case, inbox, until, end), []
    except data_faults():
        # A fault that is there without a message is none of theirs.
        version = _step(home, use_case, inbox, until, offline.newest(home, use_case).offset)
    ends, refused = [end], []
    while ends:
        try:
            version = _step(home, use_case, inbox, until, ends[-1])
            ends.pop()
        except data_faults() as exc:
            if ends[-1] - version.offset > 1:
                ends.append((version.offset + ends[-1]) // 2)
            else:
                reason = f"the features cannot be computed with it ({line_of(exc)})"
                inbox.set_aside(ends[-1], reason)
                refused.append(reason)
    return version, refused


def _step(
    home: Home, use_case: UseCase, inbox: Inbox, until: datetime, end: int
) -> offline.Version:
    """The next version, with the messages up to the number ``end``."""
    last = offline.newest(home, use_case)
    read = list(last.tables)
    try:
        tables = fold(home, use_case, last.built.tables, inbox.news(last.offset, end).rows)
        read += tables
        origin = offline.Origin(offset=end, after=last.number)
        return offline.update(home, use_case, tables, origin, until=until)
    except Exception:
        # A damaged file raises what a value may: it must not count as a message's fault.
        check_whole(read)
        raise


def retry(home: Home, use_case: UseCase, now: datetime) -> list[str]:
    """Let the next step meet again what the steps of the use case's service set aside; a line for
    each such message. One that was reported longer than ``UseCase.retention`` before ``now``
    (aware) comes with the files: a message that outranks it may be forgotten.

    Raises:
        StateError: the inbox cannot be used.
    """
    with home.lock(f"stream-{use_case.name}"), closing(Inbox(home, use_case)) as inbox:
        return inbox.retry(now - use_case.retention)


def forget_messages(home: Home, use_case: UseCase, now: datetime, folded: int) -> int:
    """Drop from the inbox what nothing can ask for any more; how many messages. One goes when

    * it was reported longer than ``UseCase.retention`` ago, so that ``receive`` lets no older
      report of its row pass, which it would have to outrank;
    * its number is at most ``folded``: every service's newest version has it;
    * another message outranks it, or it says what the newest version from the source says of its
      row: the next one needs no message for that.

    So a report that the source never took over stays, and so do all of the last days, of which a
    version that is made from the source anew is told again. A message that was refused when it came
    goes after the same time, and so does one that every service has set aside: ``retry`` takes in
    none that is older.
    """
    services = {use_case.service} | {older.service for older in older_services(home, use_case)}
    made = [v for v in offline.versions(home, use_case) if v.from_source]
    with home.lock(f"stream-{use_case.name}"), closing(Inbox(home, use_case)) as inbox:
        gone, counting = inbox.settled(now - use_case.retention, folded)
        for name, messages in counting.items() if made else ():
            gone += _repeated(named(made[-1].built.tables, name), messages)
        inbox.forget(gone)
        return len(gone) + inbox.forget_refused(now - use_case.retention, folded, services)


def _repeated(table: Table, messages: list[Counting]) -> list[int]:
    """Numbers of the messages whose rows the table has, every value alike."""
    import pyarrow as pa

    schema = stored_schema(table)
    told = _typed([message.row for message in messages], schema)
    told = told.append_column("_number", pa.array([message.number for message in messages]))
    alike = " and ".join(f"held.{name} is not distinct from told.{name}" for name in schema.names)
    with connect([replace(table, name="held")]) as session:
        session.register("told", told)
        found = session.execute(f"select _number from told semi join held on {alike}").fetchall()
    return [number for (number,) in found]


def fold(
    home: Home, use_case: UseCase, tables: list[Table], rows: Mapping[str, list[dict[str, Any]]]
) -> list[Table]:
    """The raw tables with ``rows`` (by table; instants as ISO texts) in the place of those with
    their keys; only the months that these touch are written."""
    return [
        _folded(home, declared, named(tables, declared.name), rows.get(declared.name, []))
        for declared in use_case.tables
    ]


def _folded(home: Home, declared: RawTable, table: Table, rows: list[dict[str, Any]]) -> Table:
    """One raw table with new rows, in order of time and key."""
    if not rows:
        return table
    schema, keys = stored_schema(table), ", ".join(declared.key)
    order = f"{declared.time}, {keys}" if declared.time else keys
    with connect([]) as session:
        session.register("told", _typed(rows, schema))
        near = _touched(session, declared, table)
        bind(session, "held", near)
        whole = session.sql(
            f"select * from held anti join told using ({keys}) union all by name from told "
            f"order by {order}"
        ).to_arrow_table()
    if declared.time is None:
        return write_table(home, table.name, whole.cast(schema))
    parts = by_month(whole.cast(schema), declared.time)
    # A month that lost all of its rows is still a changed one.
    parts = {month_of(path): whole.slice(0, 0) for path in near} | parts
    return write_parts(home, table.name, parts.items(), parts_of(table).values())


def _touched(session: duckdb.DuckDBPyConnection, declared: RawTable, table: Table) -> list[Path]:
    """The parts that the rows in ``told`` leave or enter; at least one."""
    files = table_files(table)
    if len(files) == 1 or declared.time is None:
        return files
    bind(session, "held", files, filename=True)
    left = session.execute(
        f"select distinct {FILE} from held semi join told using ({', '.join(declared.key)})"
    ).fetchall()
    entered = session.execute(f"select distinct strftime({declared.time}, '%Y-%m') from told")
    touched = {name for (name,) in (*left, *entered.fetchall())}
    return [f for f in files if str(f) in touched or month_of(f) in touched] or files[:1]


def _typed(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of the inbox as a table of a schema."""
    import pyarrow as pa
    import pyarrow.types as types

    instants = [field.name for field in schema if types.is_timestamp(field.type)]
    for row in rows:
        row |= {name: datetime.fromisoformat(row[name]) for name in instants if row[name]}
    return pa.Table.from_pylist(rows, schema=schema)
