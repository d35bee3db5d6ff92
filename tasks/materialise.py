"""The online store, filled as of one tick: what the server answers from."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from flytekit import task

from feature_repo.contract import UseCase
from feature_repo.history import of_content
from feature_repo.offline import Version, head, newest_first, renew
from feature_repo.online_rows import rows_of
from feature_repo.packed import STATE, unpack_state
from feature_repo.registry import get_use_case
from feature_repo.store import Materialisation
from feature_repo.tables import Table
from tasks.parity import check_parity
from tasks.resources import DATA
from tasks.services import living_services
from tasks.steps import StepLog, step
from tasks.training_set import take_in_streamed
from tasks.types import State, Step

if TYPE_CHECKING:
    from feature_repo.home import Home

ENOUGH_REQUESTS = 20  # to compare a server's answers with offline predictions


class Materialised(NamedTuple):
    """The store's tick and rows, and what the step did."""

    online: Materialisation
    step: Step


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def materialise_online(
    state: State, use_case: str, views: list[Table], training_set: Table, passed: bool
) -> Materialised:
    """Fill the online store as of the last tick of the test part with at least twenty requests,
    so that history can be asked and compared; online must equal offline. A store that is of a
    later tick stays: live requests are answered from it.

    A run whose model was refused leaves the store to the champion, which answers from it.
    """
    with step("materialise") as s:
        if passed:
            renew_versions(state.home(), use_case, views, s)
            online = fill(state.home(), use_case, views, last_busy_tick(training_set), s)
        else:
            online = Materialisation(tick="", rows=0, written=0, deleted=0, store="")
            s.say("refused by the gate: the store stays as it is")
    return Materialised(online, s.record)


def renew_versions(home: Home, use_case: str, views: list[Table], log: StepLog) -> None:
    """A run whose features came from the cache after another run on other data: what it was
    computed from is the newest again, for older services too, with what was streamed."""
    declared = get_use_case(use_case)
    made = (v for v in newest_first(home, declared) if v.from_source and v.built.views == views)
    tables = next((version.built.tables for version in made), [])
    for service in (declared, *living_services(home, declared)):
        if again := renew(home, service, tables):
            log.say(f"{service.service}: version {again.number} holds this run's data again")
            take_in_streamed(home, service, log)


def fill(
    home: Home, use_case: str, views: list[Table], until: datetime, log: StepLog
) -> Materialisation:
    """Write each entity's last row as of one tick, and compare what is read with what is stored;
    never back in time.

    A release compares a server with this store, so none is under way meanwhile.
    """
    declared = get_use_case(use_case)
    with home.lock(f"release-{use_case}"):
        online = _fill(home, declared, views, until, log)
        for older in living_services(home, declared):
            version = head(home, older)
            if version is not None:
                log.say(f"{older.service}, which an older model needs:")
                _fill(home, older, version.built.views, until, log)
    return online


def _fill(
    home: Home, use_case: UseCase, views: list[Table], until: datetime, log: StepLog
) -> Materialisation:
    from feature_repo.store import materialise

    held, newest = held_tick(home, use_case), head(home, use_case)
    if held is not None and held > until:
        log.say(f"the store is as of {held:%Y-%m-%d %H:%M}Z already, and stays at it")
        if newest is None or newest.until < held:
            where = rows_of(home, use_case).name
            return Materialisation(tick=held.isoformat(), rows=0, written=0, deleted=0, store=where)
        views, until = newest.built.views, held
    online = materialise(home, use_case, views, until)
    log.say(
        f"{online.rows:,} entity rows as of {online.tick}, {online.written:,} of them "
        f"written, {online.deleted:,} others deleted"
    )
    log.say(check_parity(home, use_case, views).describe())
    return online


def held_tick(home: Home, use_case: UseCase) -> datetime | None:
    """The tick that the online store is as of; None where there is no store yet."""
    with closing(rows_of(home, use_case)) as store:
        (state,) = store.get([STATE])
    return unpack_state(state).tick if state else None


def filled_from(home: Home, use_case: UseCase) -> Version | None:
    """The version that the online store was filled from; None where none is kept that was."""
    with closing(rows_of(home, use_case)) as store:
        (state,) = store.get([STATE])
    return of_content(home, use_case, unpack_state(state).content) if state else None


def last_busy_tick(training_set: Table) -> datetime:
    """Last tick of the test part that enough labelled requests read, else the busiest one."""
    from feature_repo.duckdb_session import connect

    with connect([training_set]) as session:
        row = session.execute(
            "SELECT epoch(tick) FROM training_set WHERE split = 'test' GROUP BY tick "
            f"ORDER BY count(*) >= {ENOUGH_REQUESTS} DESC, "
            f"CASE WHEN count(*) >= {ENOUGH_REQUESTS} THEN epoch(tick) ELSE count(*) END DESC, "
            "tick DESC LIMIT 1"
        ).fetchall()
    return datetime.fromtimestamp(row[0][0], tz=timezone.utc)
