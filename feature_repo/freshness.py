"""Whether each event log is as fresh as its declaration promises, as of an instant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from feature_repo.contract import EventLog, UseCase
from feature_repo.dialect import to_duckdb
from feature_repo.duckdb_session import connect
from feature_repo.lineage import tables_of
from feature_repo.tables import Table
from feature_repo.ticks import epoch_seconds


@dataclass(frozen=True)
class Freshness:
    """One log as of an instant. ``newest``: the newest ``available_at`` by then (ISO 8601, UTC;
    empty when there is none, and the age is then infinite); ages are minutes."""

    log: str
    tables: list[str]
    newest: str
    age_minutes: float
    promise_minutes: float

    @property
    def kept(self) -> bool:
        """Whether the log is no older than it promises."""
        return self.age_minutes <= self.promise_minutes


def measure(use_case: UseCase, tables: list[Table], as_of: datetime) -> list[Freshness]:
    """Freshness of each event log of a use case at ``as_of`` (aware), in the contract's order."""
    logs = {view.log.name: view.log for view in use_case.views}
    with connect(tables) as session:
        seconds = epoch_seconds(as_of)
        newest = {
            name: session.execute(
                f"SELECT max(epoch(available_at)) FROM ({to_duckdb(log.sql)}) "
                f"WHERE available_at <= to_timestamp({seconds})"
            ).fetchall()[0][0]
            for name, log in logs.items()
        }
    return [_one(log, newest[log.name], seconds) for log in logs.values()]


def _one(log: EventLog, newest: float | None, as_of: int) -> Freshness:
    told = "" if newest is None else f"{datetime.fromtimestamp(newest, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return Freshness(
        log=log.name,
        tables=list(tables_of(log)),
        newest=told,
        age_minutes=float("inf") if newest is None else (as_of - newest) / 60,
        promise_minutes=log.fresh_within.total_seconds() / 60,
    )


def complaint(use_case: UseCase, measured: Iterable[Freshness], as_of: datetime) -> str:
    """What to say of the broken promises; empty when all are kept."""
    broken = [f for f in measured if not f.kept]
    if not broken:
        return ""
    return (
        f"{use_case.name}: {len(broken)} of its event logs are older than they promise at "
        f"{as_of:%Y-%m-%dT%H:%M:%SZ}: "
        + "; ".join(
            f"log {f.log!r} of the raw table {' and '.join(map(repr, f.tables))} "
            + (f"is {hours(f.age_minutes)} old (newest {f.newest})" if f.newest else "has no event")
            + f", promised {hours(f.promise_minutes)}"
            for f in broken
        )
        + "; ask the source's owner for what is missing, and run the features again"
    )


def hours(minutes: float) -> str:
    """Minutes as hours: '3 h', '18 h 45 min', '26 h'."""
    if minutes == float("inf"):
        return "infinitely"
    whole, rest = divmod(round(minutes), 60)
    return f"{whole} h" if not rest else f"{whole} h {rest} min"
