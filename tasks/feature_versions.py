"""The offline store's versions: listed, forgotten, and a training set rebuilt as it was."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from flytekit import task

from feature_repo import offline
from feature_repo.errors import SkewError, StateError
from feature_repo.history import as_of, computed_until, made_of
from feature_repo.home import Home, open_home
from feature_repo.registry import get_use_case
from feature_repo.services import older_services, service_named
from feature_repo.stream import forget_messages
from feature_repo.tables import Table
from feature_repo.ticks import aware
from feature_repo.wording import counted
from serving import ledger
from serving.artifact import LINEAGE
from tasks.housekeeping import accounted_digests
from tasks.resources import DATA, SMALL
from tasks.services import living_services
from tasks.splits import check_dates, split_by_time
from tasks.steps import step

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase
    from feature_repo.offline import Version


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=10))
def list_versions(use_case: str) -> str:
    """The kept versions of every service as tables, those that no model needs among them."""
    home, declared = open_home(), get_use_case(use_case)
    text = "\n\n".join(offline.report(home, case) for case in _services(home, declared))
    if idle := _idle(home, declared):
        text += (
            f"\n\nno model needs {', '.join(idle)}: workflows/features.py remove frees all of it"
        )
    return text


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def forget_versions(use_case: str) -> str:
    """Forget versions and messages that nothing needs any more, of every service; tables go with a
    clean-up. Says which as it goes, and returns how many. What is kept: ``offline.prune`` and
    ``stream.forget_messages``."""
    with step("prune") as s:
        home, declared, now = open_home(), get_use_case(use_case), datetime.now(timezone.utc)
        trained_on, idle, forgotten = accounted_digests(home), _idle(home, declared), 0
        for case in _services(home, declared):
            old = offline.prune(home, case, now, trained_on)
            numbers = ", ".join(str(version.number) for version in old)
            gone = f"{counted(len(old), 'version')} forgotten"
            s.say(f"{case.service}: {gone}{': ' * bool(old)}{numbers}")
            forgotten += len(old)
        if idle:
            s.say(f"no model needs {', '.join(idle)}: workflows/features.py remove frees all of it")
        # A service that nobody needs takes in no messages any more.
        living = [declared, *living_services(home, declared)]
        heads = [head for case in living if (head := offline.head(home, case))]
        folded = min((head.offset for head in heads), default=0)
        messages = forget_messages(home, declared, now, folded)
        s.say(f"{counted(messages, 'message')} forgotten")
    gone = f"{counted(forgotten, 'version')} and {counted(messages, 'message')}"
    return f"{gone} of {use_case} forgotten"


def _services(home: Home, use_case: UseCase) -> list[UseCase]:
    """What the program declares, and every recorded service of another declaration."""
    return [use_case, *older_services(home, use_case)]


def _idle(home: Home, use_case: UseCase) -> list[str]:
    """Recorded services that no model needs: they are neither computed nor served."""
    living = {case.service for case in living_services(home, use_case)}
    return [c.service for c in older_services(home, use_case) if c.service not in living]


@task(requests=DATA, retries=2, timeout=timedelta(hours=1))
def rebuild_training_set(
    use_case: str,
    created: datetime,
    service: str,
    until: datetime | None,
    training_start: datetime,
    validation_start: datetime,
    test_start: datetime,
    test_end: datetime,
) -> Table:
    """The training set of the version that was the newest at ``created``, of facts up to
    ``until``; see ``rebuild``. An empty ``service`` is the one that the program declares.

    Raises:
        StateError: there is no such service, or the version, or a table of it, is not kept.
        TrainingError: dates out of order.
    """
    with step("training set") as s:
        home, declared = open_home(), get_use_case(use_case)
        case = service_named(home, declared, service or declared.service)
        version = as_of(home, case, aware(created))
        dates = [training_start, validation_start, test_start, test_end]
        table = rebuild(home, case, version, dates, aware(until) if until else None)
        s.say(f"{table.rows:,} rows of version {version.number}, {table.digest[:12]}: {table.uri}")
    return table


@task(requests=DATA, retries=2, timeout=timedelta(hours=1))
def rebuild_for_model(use_case: str, version: str) -> Table:
    """The training set of a certified model; see ``rebuild_as_certified``."""
    with step("training set") as s:
        table = rebuild_as_certified(open_home(), get_use_case(use_case), version)
        s.say(
            f"{table.rows:,} rows that {use_case} {version} was made from, {table.digest[:12]}, as "
            f"its certificate says: {table.uri}"
        )
    return table


def rebuild(
    home: Home, use_case: UseCase, version: Version, dates: list[datetime], until: datetime | None
) -> Table:
    """Join and split a version's tables as training does, by the program's present code.

    ``until``: neither requests that read a later tick nor labels that were known later are seen.
    Views are read as they are stored, so an older declaration needs its record, not its program.

    Raises:
        TrainingError: dates out of order.
        StateError: a table is no longer kept.
    """
    from feature_repo.engine import build_training_set

    def finish(rows: pa.Table) -> pa.Table:
        known = rows if until is None else _known(rows, until, use_case.measures)
        return split_by_time(dates, Counter(), known)

    check_dates(use_case.name, dates)
    built = version.built
    last = computed_until(home, use_case, built.tables, built.views) or version.until
    last = min(last, until or last)
    return build_training_set(home, use_case, built.tables, built.views, finish, last)


def rebuild_as_certified(home: Home, use_case: UseCase, version: str) -> Table:
    """The training set that a model's lineage names, also when the declaration has changed since.

    Raises:
        StateError: there is no such model, its lineage tells too little, or the version of the
            features, their service or a table is no longer kept.
        SkewError: what comes out is not what the certificate names, since code has changed.
    """
    entry = _certified(home, use_case.name, version)
    folder = home.root / "models" / use_case.name / entry["subject"]
    name = f"{use_case.name} {version}"
    try:
        lineage = json.loads((folder / LINEAGE).read_bytes())
        service = f"{use_case.name}_{lineage['features']['declaration'][:12]}"
        views = lineage["features"]["views"]
        tables = {table: facts["digest"] for table, facts in lineage["data"]["tables"].items()}
        dates = [datetime.fromisoformat(date) for date in lineage["training"]["split_dates"]]
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise StateError(
            f"the lineage of {name} in {folder} does not tell what its training set was made of "
            f"({exc!r}); rebuild it by the instant of its version and its split dates"
        ) from exc
    case = service_named(home, use_case, service)
    found = made_of(home, case, tables, views)
    if found is None:
        raise StateError(
            f"{service}: the version that {name} was trained on is no longer kept; it was "
            "forgotten, or the home is another one"
        )
    table, told = rebuild(home, case, found, dates, None), entry["facts"]["training_set"]
    if table.digest != told:
        raise SkewError(
            f"the training set of {name} is {told[:12]} by its certificate, but "
            f"{table.digest[:12]} when it is rebuilt: the code that joins and splits has changed "
            "since, or DuckDB or pyarrow; rebuild it with the code that the certificate names"
        )
    return table


def _certified(home: Home, use_case: str, version: str) -> dict[str, Any]:
    """The ledger's entry of a model's certificate."""
    found = {
        str(entry["facts"]["version"]): entry
        for entry in ledger.entries(home)
        if entry["kind"] == "certificate" and entry["facts"]["use_case"] == use_case
    }
    if version not in found:
        raise StateError(
            f"{use_case} {version} was never certified in {home.root}; certified are "
            f"{', '.join(found) or 'none'}"
        )
    return found[version]


def _known(rows: pa.Table, until: datetime, measures: tuple[str, ...]) -> pa.Table:
    """The rows without the labels, and the measures that they were cut from, that became known
    after an instant."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.less_equal(rows["label_available_at"], pa.scalar(until, pa.timestamp("us", "UTC")))
    for name in ("label", *measures):
        at = rows.schema.get_field_index(name)
        values = pc.if_else(known, rows[name], pa.scalar(None, pa.float64()))
        rows = rows.set_column(at, rows.schema.field(at), values)
    return rows
