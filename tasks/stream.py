"""A stream's step as a schedule takes it, and the replay of a past week that proves it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flytekit import task

from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from feature_repo.stream import advance, retry
from feature_repo.tables import Table
from feature_repo.ticks import aware
from feature_repo.wording import counted
from tasks.materialise import filled_from
from tasks.parity import changed_entities, check_parity
from tasks.replay import Plan, Replayed, replay
from tasks.resources import DATA, SMALL
from tasks.services import living_services
from tasks.steps import step
from tasks.types import State, Step


@task(requests=DATA, retries=2, timeout=timedelta(minutes=15))
def advance_features(state: State, use_case: str, as_of: datetime) -> Step:
    """Take in the messages that came, and bring views and online store to the tick that a request
    made at ``as_of`` reads: a later one would refuse it.

    Raises:
        SkewError: what is read online differs from the offline rows.
        StateError: there is no version of the features yet, or a store cannot be used.
    """
    home, declared = state.home(), get_use_case(use_case)
    with step("stream") as s, home.lock(f"release-{use_case}"):
        for service in (declared, *living_services(home, declared)):
            before = filled_from(home, service)
            made = advance(home, service, as_of - service.lag)
            built = made.version.built
            was = before.built.states if before else built.states
            changed = changed_entities(service, was, built.states)
            s.say(f"{service.service}: {counted(made.messages, 'message')}, {made.version.summary}")
            for reason in made.refused:
                s.say(f"{service.service}: a message is set aside: {reason}")
            s.say(check_parity(home, service, built.views, changed).describe())
    return s.record


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=10))
def retry_messages(use_case: str) -> str:
    """Let the next step meet again the messages that steps set aside, for every living service:
    what stood in their way may be mended. Says which, and why each was set aside; returns how many.

    Raises:
        StateError: the inbox cannot be used.
    """
    home, declared, now = open_home(), get_use_case(use_case), datetime.now(timezone.utc)
    total = 0
    with step("retry") as s:
        for service in (declared, *living_services(home, declared)):
            retried = retry(home, service, now)
            total += len(retried)
            s.say(f"{service.service}: {counted(len(retried), 'message')} for the next step")
            for line in retried:
                s.say(line)
    return f"{counted(total, 'message')} of {use_case} for the next step"


@task(requests=DATA, retries=2, timeout=timedelta(hours=6))
def replay_flights(
    state: State, tables: list[Table], start: datetime, end: datetime, late: float,
    duplicates: float, seed: int,
) -> Replayed:  # fmt: skip
    """Replay the flights as a stream, in a home of its own; a retry goes on where it stopped.

    Raises:
        SkewError: an online answer differs from the offline row of its tick, or the end from a
            computation from the start.
        StateError: start and end are no whole hours, or not in this order.
    """
    plan = Plan(
        start=aware(start), end=aware(end), late=late, duplicates=duplicates, seed=seed
    )  # fmt: skip
    with step("replay") as s:
        done = replay(state.home(), tables, plan, s.say)
        s.say(
            f"{counted(done.hours, 'hour')}, {counted(done.messages, 'message')}, "
            f"{counted(done.added, 'row')} added, "
            f"{done.corrected:,} corrected; {done.values:,} online values compared, "
            f"{done.mismatches} mismatches; a step costs {done.median_cpu_seconds} s CPU; "
            f"{done.report}"
        )
    return done
