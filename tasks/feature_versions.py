"""The offline store's versions: listed, forgotten, and a training set rebuilt as it was."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flytekit import task

from feature_repo import offline
from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from feature_repo.stream import forget_messages
from feature_repo.tables import Table
from tasks.housekeeping import accounted_digests
from tasks.resources import DATA, SMALL
from tasks.services import living_services
from tasks.steps import step


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=10))
def list_versions(use_case: str) -> str:
    """The kept versions as a table."""
    text = offline.report(open_home(), get_use_case(use_case))
    print(text)
    return text


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def forget_versions(use_case: str) -> str:
    """Forget versions and messages that nothing needs any more, of every living service; tables go
    with a clean-up. What is kept: ``offline.prune`` and ``stream.forget_messages``."""
    with step("prune") as s:
        home, declared, now = open_home(), get_use_case(use_case), datetime.now(timezone.utc)
        services, trained_on = [declared, *living_services(home, declared)], accounted_digests(home)
        for service in services:
            old = offline.prune(home, service, now, trained_on)
            numbers = ", ".join(str(version.number) for version in old)
            s.say(f"{service.service}: {len(old)} versions forgotten{': ' * bool(old)}{numbers}")
        heads = [head for service in services if (head := offline.head(home, service))]
        folded = min((head.offset for head in heads), default=0)
        s.say(f"{forget_messages(home, declared, now, folded):,} messages forgotten")
    return s.record.message


@task(requests=DATA, retries=2, timeout=timedelta(hours=1))
def rebuild_training_set(use_case: str, created: datetime) -> Table:
    """The training set of the version that was the newest at ``created`` (UTC).

    Raises:
        StateError: that version, or a table of it, is no longer kept.
    """
    from feature_repo.engine import build_training_set

    with step("training set") as s:
        home, declared = open_home(), get_use_case(use_case)
        instant = created if created.tzinfo else created.replace(tzinfo=timezone.utc)
        version = offline.as_of(home, declared, instant)
        built = version.built
        table = build_training_set(home, declared, built.tables, built.views)
        s.say(f"{table.rows:,} rows of version {version.number}, {table.digest[:12]}: {table.uri}")
    return table
