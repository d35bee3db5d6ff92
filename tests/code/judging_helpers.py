"""Toy models (``toy``) that were evaluated, judged and certified."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from toy import TOY, toy_model, toy_training_set

from feature_repo.home import Home, open_home
from feature_repo.tables import Table, read_table, write_table
from serving import certificate, dsse
from serving.statements import write_statement
from tasks.certify import certify
from tasks.evaluate import evaluate
from tasks.folders import store_folder
from tasks.gate import judge
from tasks.model_card import write_card
from tasks.registry import find_champion
from tasks.tracking import client
from tasks.types import Certified, Folder, SourceFile, State, Step, Verdict


@cache
def _empty_store() -> bytes:
    """A migrated, empty MLflow store: making one takes MLflow seconds."""
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(folder)
        client(home).search_registered_models()
        return (home.root / "mlflow.db").read_bytes()


def fresh_home(root: Path) -> Home:
    """A new home whose MLflow store is already there."""
    home = open_home(str(root))
    (home.root / "mlflow.db").write_bytes(_empty_store())
    return home


def state_of(home: Home) -> State:
    """A home as tasks take it."""
    return State(str(home.root), home.id)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a run of the judging tasks ends with."""

    certified: Certified
    evaluation: Folder
    card: Folder
    verdicts: list[Verdict]
    trained: Folder
    training_set: Table


def toy_quarantine(home: Home) -> Table:
    """Two rows set aside, one of which broke two rules."""
    table = ["flights"] * 3
    columns = {
        "table": table,
        "row": [3, 3, 9],
        "column": ["distance", "carrier", "distance"],
        "check": ["in_range(0, 9999)", "isin", "in_range(0, 9999)"],
        "reason": ["too far"] * 3,
        "value": ["1", "?", "2"],
    }
    return write_table(home, "quarantine", pa.table(columns))


def judged(home: Home, slope: float = 0.8, seed: int = 0, table: Table | None = None) -> Judged:
    """Evaluate, judge, write the card and certify a toy model; ``slope`` below 0 is refused."""
    inputs, trained = judged_only(home, slope, seed, table)
    return Judged(
        certified=certify(state=state_of(home), **inputs).certified,
        evaluation=inputs["evaluation"], card=inputs["card"], verdicts=inputs["verdicts"],
        trained=trained, training_set=inputs["training_set"],
    )  # fmt: skip


def judged_only(
    home: Home, slope: float = 0.8, seed: int = 0, table: Table | None = None
) -> tuple[dict[str, Any], Folder]:
    """What ``certify`` takes beside the state, and the trained folder; ``table``: a training set
    other than that of the seed."""
    state = state_of(home)
    case: dict[str, Any] = {"use_case": "toy", "declaration": TOY.declaration}
    training_set = table or toy_training_set(home, seed=seed)
    model = toy_model(home, read_table(training_set), slope)
    trained = store_folder(
        home, "trained", lambda f: _write(f / "weights", f"{slope} {training_set.digest}")
    )
    champion = find_champion(state=state, use_case="toy", model=model)
    evaluated = evaluate(
        state=state, **case, model=model, training_set=training_set, champion=champion
    )
    verdicts = judge(state=state, **case, evaluation=evaluated.evaluation)
    made_from: dict[str, Any] = {
        "tables": [training_set],
        "quarantine": toy_quarantine(home),
        "training_set": training_set,
        "verdicts": verdicts.verdicts,
        "evaluation": evaluated.evaluation,
        "model": model,
    }
    inputs = {
        "use_case": "toy",
        "execution": "local-1",
        "card": write_card(state=state, **case, **made_from).card,
        "trained": trained,
        "passed": verdicts.passed,
        "sources": [SourceFile("flights.csv", "5" * 64, 1234)],
        "views": [training_set],
        "split_dates": [datetime(2013, month, 1, tzinfo=timezone.utc) for month in (1, 10, 11, 12)],
        "steps": [Step("train", 1.5, "2026-01-01T00:00:00+00:00", "", 2.25, 0.5)],
    }
    return {**inputs, **made_from}, trained


def state_release(home: Home, directory: Path, use_case: str = "toy") -> None:
    """The signed statement of a release, without a server to prove it."""
    issued = certificate.read(directory)
    at = datetime.now(timezone.utc).isoformat()
    write_statement(
        certificate.release_path(home, use_case, issued.subject), dsse.signing_key(home),
        certificate.RELEASE_TYPE, issued.files, {"subject": issued.subject, "released_at": at},
    )  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.write_text(text)
