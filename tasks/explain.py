"""Why a feature has its value at an instant, from the newest version of the data."""

from __future__ import annotations

from datetime import datetime, timedelta

from flytekit import task

from feature_repo import offline
from feature_repo.errors import RequestError, SkewError, StateError
from feature_repo.explain import differences, explain, parse_entity
from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from feature_repo.ticks import aware, tick_of
from tasks.explain_text import told
from tasks.resources import DATA


@task(requests=DATA, retries=1, timeout=timedelta(minutes=10))
def explain_features(use_case: str, keys: str, at: datetime, newest: int) -> str:
    """Each feature of an entity as asked at ``at``, the events behind it, and what was not known.

    The value is worked out again from the events, one by one, and held against the stored row.

    Raises:
        DeclarationError: no such use case.
        RequestError: the entity cannot be read, or names no whole key; ``newest`` is below zero.
        StateError: nothing had happened by then, or the data do not reach that far.
        SkewError: the events give another value than the one stored.
    """
    declared = get_use_case(use_case)
    entity = parse_entity(keys, declared)
    if newest < 0:
        raise RequestError(422, "newest", f"{newest} events cannot be shown; give 0 or more")
    asked = aware(at)
    version = offline.newest(open_home(), declared)
    if (tick := tick_of(asked, tick=declared.tick, lag=declared.lag)) > version.until:
        raise StateError(
            f"{asked:%Y-%m-%dT%H:%M:%SZ} reads tick {tick:%Y-%m-%dT%H:%M:%SZ}, but the features "
            f"of {use_case} hold up to {version.until:%Y-%m-%dT%H:%M:%SZ}; ask for an earlier "
            "time, or compute the features of newer data first"
        )
    explanation = explain(declared, version.built.tables, version.built.views, entity, asked)
    text = told(explanation, newest)
    if differ := differences(explanation):
        print(text, flush=True)
        raise SkewError(
            f"{use_case}: the stored rows are not what their events give: {'; '.join(differ)}; "
            "the views and the raw tables are not of one run, or the feature SQL is wrong: run "
            "the use case's workflow again"
        )
    return text
