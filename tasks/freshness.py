"""The promises of the event logs, held against the data of one instant."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from flytekit import task

from feature_repo.errors import FreshnessError
from feature_repo.freshness import Freshness, complaint, hours, measure
from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import State, Step


class Fresh(NamedTuple):
    """Each log's age and promise, and what the step did."""

    logs: list[Freshness]
    step: Step


@task(requests=DATA, retries=0, timeout=timedelta(minutes=10))
def check_freshness(state: State, use_case: str, tables: list[Table], as_of: datetime) -> Fresh:
    """Compare the newest event of each log, known by ``as_of``, with the log's promise.

    Never cached, and not tried again: the same tables are as old a second time. Let it run after
    the store was filled, so that a broken promise is told and nothing is withheld.

    Raises:
        FreshnessError: a log is older than it promises; names its raw tables, age and promise.
    """
    with step("freshness") as s:
        declared = get_use_case(use_case)
        measured = measure(declared, tables, as_of)
        if said := complaint(declared, measured, as_of):
            raise FreshnessError(said)
        ages = ", ".join(f"{f.log} {hours(f.age_minutes)}" for f in measured)
        s.say(f"every promise kept as of {as_of:%Y-%m-%dT%H:%M:%SZ}; ages: {ages}")
    return Fresh(measured, s.record)
