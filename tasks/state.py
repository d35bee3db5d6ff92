"""The first step of every execution: where its state lives, and what it is called."""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from flytekit import current_context, task

from feature_repo.code_version import code_version
from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from feature_repo.sql_checks import check_sql
from tasks.resources import SMALL, WAITING_THREADS
from tasks.types import State


class Opened(NamedTuple):
    """The home, the execution's id, when it began (ISO, UTC), and the use case's version.

    ``declaration`` is the digest of the use case's declaration and of its package's code: an
    input of every cached step, so that no step answers for a use case that has changed.
    """

    state: State
    execution: str
    began: str
    declaration: str


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=5))
def open_state(use_case: str) -> Opened:
    """Open the home that ``AIRWORTHY_HOME`` names and give the execution its id.

    On a cluster the id is Flyte's; a local run has none of its own, so it gets a fresh one, and
    its later processes inherit that threads wait without spinning.

    Raises:
        DeclarationError: the use case's SQL does not yield what its features need.
    """
    declared = get_use_case(use_case)
    check_sql(declared)
    home = open_home()
    began = datetime.now(timezone.utc)
    execution = current_context().execution_id
    name = f"{execution.project}:{execution.domain}:{execution.name}"
    if execution.domain == "local":
        name = f"local-{began:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    for variable, value in WAITING_THREADS.items():
        os.environ.setdefault(variable, value)
    print(f"[open] home {home.root}, execution {name}", flush=True)
    declaration = declared.declaration + code_version(f"feature_repo.{use_case}")
    return Opened(State(str(home.root), home.id), name, began.isoformat(), declaration)
