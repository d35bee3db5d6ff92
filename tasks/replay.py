"""A replay of the flights as a stream: hour by hour, late, twice and out of order, and compared.

The replay has a home, an inbox and stores of its own (``replays/<digest of what is replayed>`` in
the home, and a feature service of its own name), so it touches nothing that is served. A replay
that was killed goes on where it was when it is started again.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from feature_repo import offline
from feature_repo.contract import UseCase
from feature_repo.duckdb_session import connect
from feature_repo.engine import build_views
from feature_repo.errors import SkewError, StateError
from feature_repo.flights.replay import known, reports
from feature_repo.home import Home, digest_of, write_atomically
from feature_repo.messages import Message
from feature_repo.online_rows import rows_of
from feature_repo.registry import get_use_case
from feature_repo.stream import advance, receive
from feature_repo.tables import Table, named, read_table, write_raw
from feature_repo.wording import counted
from tasks.parity import changed_entities, compare_served

if TYPE_CHECKING:
    import pyarrow as pa

HOUR = timedelta(hours=1)
JITTER = timedelta(minutes=5)  # of every message: enough to change their order
LATE = (timedelta(minutes=10), timedelta(hours=12))
AGAIN = timedelta(hours=6)
ENTITIES = 300  # compared after each hour, of each view, beside the changed; all at midnight
Delivery = tuple[datetime, Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is replayed: reports after ``start`` and up to ``end`` (aware, whole hours), a share of
    them late, a share of them twice."""

    start: datetime
    end: datetime
    late: float
    duplicates: float
    seed: int

    def __post_init__(self) -> None:
        for instant in (self.start, self.end):
            if (instant.minute, instant.second, instant.microsecond) != (0, 0, 0):
                raise StateError(f"a replay goes by whole hours, and {instant} is none")
        if self.end <= self.start:
            raise StateError(f"a replay up to {self.end} cannot start at {self.start}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hour:
    """One step: messages received and set aside, rows of the views added and corrected, online
    values compared with offline ones and how many differ, CPU and wall seconds."""

    clock: str
    messages: int
    refused: int
    added: int
    corrected: int
    rows: int
    values: int
    mismatches: int
    cpu_seconds: float
    seconds: float


@dataclass(frozen=True)
class Replayed:
    """A finished replay, over all of its hours."""

    hours: int
    messages: int
    refused: int
    added: int
    corrected: int
    rows: int
    values: int
    mismatches: int
    median_cpu_seconds: float
    median_seconds: float
    report: str


def deliveries(told: Sequence[Message], plan: Plan) -> list[Delivery]:
    """When each message arrives, in that order: a little after its report, or much, or twice."""
    rng = random.Random(plan.seed)  # noqa: S311 (a simulation)
    arrived: list[Delivery] = []
    for message in told:
        waits = [rng.random() * JITTER]
        if rng.random() < plan.late:
            low, high = LATE
            waits[0] += low * (high / low) ** rng.random()
        if rng.random() < plan.duplicates:
            waits.append(waits[0] + rng.random() * AGAIN)
        arrived += [(message.reported_at + wait, message) for wait in waits]
    return sorted(arrived, key=lambda delivery: delivery[0])


def replay(
    home: Home, truth: list[Table], plan: Plan, say: Callable[[str], None] = print
) -> Replayed:
    """Replay the flights up to the end, and hold the end against the truth.

    Raises:
        SkewError: an online answer differs from the offline row of its tick, or the end from a
            computation from the start.
    """
    use_case = replace(get_use_case("flights"), name="flights_replay")
    place = Home(root=home.path("replays", _name(truth, plan)))
    with home.lock(f"replay-{place.root.name}"):
        tables = {table.name: read_table(table) for table in truth}
        if offline.head(place, use_case) is None:
            base = _stored(place, use_case, known(tables, plan.start))
            say(offline.update(place, use_case, base, until=plan.start).summary)
        arrived = deliveries(reports(tables, plan.start, plan.end), plan)
        hours = [_hour(place, use_case, arrived, plan, clock, say) for clock in _clocks(plan)]
        check_end(place, use_case, known(tables, plan.end), plan.end)
        say("raw tables equal the truth; views equal a computation from the start, byte for byte")
        report = _report(home, plan, hours)
        with closing(rows_of(place, use_case)) as store:
            store.drop()
        shutil.rmtree(place.root)
    return report


def _hour(
    place: Home, use_case: UseCase, arrived: list[Delivery], plan: Plan, clock: datetime,
    say: Callable[[str], None],
) -> Hour:  # fmt: skip
    """One hour, unless a replay that was killed had done it."""
    path = place.path("hours", f"{clock:%Y-%m-%dT%H}.json")
    if path.exists():
        return Hour(**json.loads(path.read_text()))
    cpu, wall = time.process_time(), time.perf_counter()
    # What is still under way at the end arrives then.
    last = datetime.max.replace(tzinfo=clock.tzinfo) if clock == plan.end else clock
    some = [message for at, message in arrived if clock - HOUR < at <= last]
    before = offline.newest(place, use_case).built.states
    received = receive(place, use_case, some, clock)
    version = advance(place, use_case, clock).version
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    # A step that was killed after its record is done again, and adds nothing.
    made = [v for v in offline.versions(place, use_case) if v.until == clock]
    many = 10**9 if clock.hour == 0 else ENTITIES
    changed = changed_entities(use_case, before, version.built.states)
    views, differences = compare_served(place, use_case, version.built.views, many, changed)
    if version.until != clock:
        differences.append(f"the version is of {version.until}, not of {clock}")
    hour = Hour(
        clock=clock.isoformat(), messages=received.accepted, refused=len(received.refused),
        added=sum(v.added for v in made), corrected=sum(v.corrected for v in made),
        rows=sum(v.rows for v in views), values=sum(v.values for v in views),
        mismatches=len(differences), cpu_seconds=cpu, seconds=wall,
    )  # fmt: skip
    say(
        f"{clock:%Y-%m-%d %H:%M}Z: {counted(hour.messages, 'message')}, {hour.refused} set aside, "
        f"{counted(hour.added, 'row')} added, {hour.corrected:,} corrected, {hour.values:,} values "
        f"compared, {hour.mismatches} mismatches, {hour.cpu_seconds:.1f} s CPU"
    )
    if differences:
        raise SkewError(f"replay, {clock}: {'; '.join(differences[:3])}")
    write_atomically(path, json.dumps(asdict(hour)).encode())
    return hour


def _clocks(plan: Plan) -> Iterable[datetime]:
    """The end of each hour."""
    return (plan.start + n * HOUR for n in range(1, (plan.end - plan.start) // HOUR + 1))


def check_end(place: Home, use_case: UseCase, truth: dict[str, pa.Table], until: datetime) -> None:
    """Hold the newest version against the truth, and its views and states, byte for byte, against
    what a computation from the start makes of that.

    Raises:
        SkewError: a raw table, view or state differs.
    """
    built, tables = offline.newest(place, use_case).built, _stored(place, use_case, truth)
    for table in tables:
        ours = replace(named(built.tables, table.name), name="ours")
        with connect([ours, replace(table, name="theirs")]) as session:
            more, fewer = (
                session.sql(f"from {one} except all from {other}").shape[0]
                for one, other in (("ours", "theirs"), ("theirs", "ours"))
            )
        if more or fewer:
            raise SkewError(
                f"replay: the raw table {table.name!r} has {more} rows that the truth has not, and "
                f"lacks {fewer}"
            )
    again = build_views(place, use_case, tables, until)
    pairs = zip((*built.views, *built.states), (*again.views, *again.states), strict=True)
    differ = [ours.name for ours, theirs in pairs if ours.digest != theirs.digest]
    if differ:
        raise SkewError(f"replay: {differ} differ from a computation from the start")


def _report(home: Home, plan: Plan, hours: list[Hour]) -> Replayed:
    """Write the hours as a file, and sum them up."""
    path = home.path("reports", "replay", f"{plan.start:%Y-%m-%d}_{plan.end:%Y-%m-%d}.json")
    write_atomically(path, json.dumps([asdict(hour) for hour in hours], indent=2).encode())

    def total(what: str) -> int:
        return sum(getattr(hour, what) for hour in hours)

    return Replayed(
        len(hours), total("messages"), total("refused"), total("added"), total("corrected"),
        total("rows"), total("values"), total("mismatches"),
        round(median(hour.cpu_seconds for hour in hours), 2),
        round(median(hour.seconds for hour in hours), 2), str(path),
    )  # fmt: skip


def _stored(place: Home, use_case: UseCase, tables: dict[str, pa.Table]) -> list[Table]:
    return [write_raw(place, declared, tables[declared.name]) for declared in use_case.tables]


def _name(truth: list[Table], plan: Plan) -> str:
    parts = {name: str(value) for name, value in asdict(plan).items()}
    return digest_of(parts | {table.name: table.digest for table in truth})[:16]
