"""The online store, filled as of one tick: what the server answers from."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from flytekit import task

from feature_repo.registry import get_use_case
from feature_repo.store import Materialisation
from feature_repo.tables import Table
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import State, Step

ENOUGH_REQUESTS = 20  # to compare a server's answers with offline predictions


class Materialised(NamedTuple):
    """The store's tick and rows, and what the step did."""

    online: Materialisation
    step: Step


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def materialise_online(
    state: State, use_case: str, views: list[Table], training_set: Table, as_of: str = ""
) -> Materialised:
    """Write each entity's last row as of one tick; a reader sees the old store or the new one.

    ``as_of`` is an ISO instant. When it is empty, the last tick of the test part with at least
    twenty requests is taken, so that history can be asked and compared.
    """
    from feature_repo.store import materialise

    with step("materialise") as s:
        until = datetime.fromisoformat(as_of) if as_of else last_busy_tick(training_set)
        online = materialise(state.home(), get_use_case(use_case), views, until)
        known = "already there" if online.already else "written"
        s.say(f"{online.rows:,} entity rows as of {online.tick}, {known}")
    return Materialised(online, s.record)


def last_busy_tick(training_set: Table) -> datetime:
    """Last tick of the test part that enough labelled requests read, else the busiest one."""
    from feature_repo.tables import connect

    with connect([training_set]) as session:
        row = session.execute(
            "SELECT epoch(tick) FROM training_set WHERE split = 'test' GROUP BY tick "
            f"ORDER BY count(*) >= {ENOUGH_REQUESTS} DESC, "
            f"CASE WHEN count(*) >= {ENOUGH_REQUESTS} THEN epoch(tick) ELSE count(*) END DESC, "
            "tick DESC LIMIT 1"
        ).fetchall()
    return datetime.fromtimestamp(row[0][0], tz=timezone.utc)
