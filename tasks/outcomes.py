"""What came of recorded answers, as a table and in words; and a damaged log, salvaged."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from flytekit import task

from feature_repo import offline
from feature_repo.home import Home, open_home, write_atomically
from feature_repo.registry import get_use_case
from feature_repo.ticks import aware
from feature_repo.wording import counted
from serving.outcomes import Outcomes, pairs, read_outcomes
from serving.sealing import DAMAGED, seal_ended
from serving.segments import folder_of
from tasks.resources import DATA, SMALL
from tasks.steps import step
from tasks.types import Step


class Joined(NamedTuple):
    """The table's file, how many answers have their label, and what the step did."""

    table: str
    joined: int
    step: Step


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def join_outcomes(use_case: str, since: datetime, until: datetime | None = None) -> Joined:
    """Join the answers given since then with the labels that were available at ``until`` (now).

    Raises:
        DeclarationError: no such use case, or its identity names several requests at once.
        StateError: the prediction log or the data cannot be read.
    """
    with step("outcomes") as s:
        home, declared = open_home(), get_use_case(use_case)
        tables = offline.newest(home, declared).built.tables
        at = aware(until) if until else datetime.now(timezone.utc)
        outcomes = read_outcomes(home, declared, tables, aware(since), at)
        path = write(home, use_case, outcomes)
        s.say(f"{describe(outcomes)}, in {path}")
    return Joined(str(path), outcomes.joined, s.record)


def write(home: Home, use_case: str, outcomes: Outcomes) -> Path:
    """The table as Parquet, and its summary as JSON beside it."""
    import pyarrow.parquet as pq

    path, content = home.path("reports", f"outcomes-{use_case}.parquet"), io.BytesIO()
    pq.write_table(outcomes.table, content)
    write_atomically(path, content.getvalue())
    write_atomically(path.with_suffix(".json"), json.dumps(document(outcomes), indent=2).encode())
    return path


def document(outcomes: Outcomes) -> dict[str, Any]:
    """The summary as JSON values; losses by role and version, those of fallbacks apart."""
    import pyarrow.compute as pc

    table = outcomes.table.filter(pc.is_valid(outcomes.table["label"]))
    keys = ["role", "version", "by_fallback"]
    table = table.append_column(keys[-1], pc.not_equal(table["fallback"], ""))
    by = table.group_by(keys).aggregate([("id", "count"), ("loss", "mean")])
    models = by.rename_columns({"id_count": "answers", "loss_mean": "loss"})
    return {
        "format": "airworthy.outcomes/v1",
        "answers": outcomes.answers,
        "joined": outcomes.joined,
        "waiting": outcomes.waiting,
        "unnamed": outcomes.unnamed,
        "doubled": outcomes.doubled,
        "pairs": {role: pairs(outcomes.table, role).num_rows for role in ("shadow", "canary")},
        "models": models.sort_by([(key, "ascending") for key in keys]).to_pylist(),
    }


def describe(outcomes: Outcomes) -> str:
    """The summary in one line."""
    models = [
        f"{m['role']} {m['version']}{', by its fallback' if m['by_fallback'] else ''}: "
        f"{m['answers']:,} with a mean loss of {m['loss']:.4f}"
        for m in document(outcomes)["models"]
    ]
    return (
        f"{counted(outcomes.answers, 'answer')}, {outcomes.joined:,} with their label, "
        f"{outcomes.waiting:,} waiting for it, {outcomes.unnamed:,} that do not say what they are "
        f"about, {outcomes.doubled:,} asked again" + "".join(f"; {model}" for model in models)
    )


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=30))
def salvage_log(use_case: str) -> str:
    """Seal every ended segment of the prediction log, of damaged ones what is whole; those are put
    aside, and told.

    Raises:
        StateError: a segment cannot be read.
    """
    home = open_home()
    made = seal_ended(home, use_case, salvage=True)
    aside = sorted(folder_of(home, use_case).glob(f"*{DAMAGED}"))
    told = [f"damaged, put aside: {path}" for path in aside]
    return "\n".join([f"{len(made):,} segments sealed", *told])
