"""The last step: the execution in the ledger, and its summary on the terminal and as JSON."""

from __future__ import annotations

import json
from datetime import timedelta

from flytekit import Deck, task

from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from serving.artifact import CERTIFICATE
from serving.releases import read_current
from tasks.cache import source_version
from tasks.folders import open_folder
from tasks.ledger import append
from tasks.release import Release
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL
from tasks.summary import render, step_rows, write_summary
from tasks.types import Certified, Folder, SplitRows, State, Step, Verdict


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=5),
    enable_deck=True,
    deck_fields=(),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def conclude(
    state: State,
    execution: str,
    began: str,
    use_case: str,
    source_digest: str,
    rows_read: int,
    rows_quarantined: int,
    tables: list[Table],
    quarantine: Table,
    training_set: Table,
    rows: SplitRows,
    evaluation: Folder,
    verdicts: list[Verdict],
    certified: Certified,
    released: Release,
    steps: list[Step],
) -> str:
    """Write the execution's facts to the ledger and its summary to the home; returns its path.

    On a cluster Flyte keeps the same facts; a local run leaves none but these.
    """
    home = state.home()
    done = step_rows(steps, began)
    facts = {
        "use_case": use_case,
        "began": began,
        "code": source_version(),
        "inputs": {"source": source_digest, **{t.name: t.digest for t in tables}},
        "outputs": {
            "quarantine": quarantine.digest,
            "training_set": training_set.digest,
            "evaluation": evaluation.digest,
            "model": certified.subject,
        },
        "steps": [{k: s[k] for k in ("name", "seconds", "cached")} for s in done],
    }
    append(home, "execution", execution, facts)
    measured = json.loads((open_folder(evaluation) / "evaluation.json").read_bytes())
    summary = {
        "use_case": use_case,
        "execution": execution,
        "rows_read": rows_read,
        "rows_quarantined": rows_quarantined,
        "features": len(get_use_case(use_case).features),
        "training_rows": rows.training,
        "validation_rows": rows.validation,
        "test_rows": rows.test,
        "test": measured["test"],
        "reference": measured["reference"],
        "constant": measured["constant"],
        "fallback": measured.get("fallback"),
        "gate": {"passed": certified.passed, "verdicts": [_json(v) for v in verdicts]},
        "certificate": {
            "id": certified.certificate,
            "path": f"{certified.model_dir}/{CERTIFICATE}",
        },
        "model": {
            "version": certified.version,
            "path": certified.model_dir,
            "released": released.released,
            "served": _served(home, use_case),
        },
        "prediction_id": released.prediction_id,
        "card": f"{certified.model_dir}/card.html",
        "manifest": released.manifest,
        "ledger": str(home.path("ledger", "ledger.jsonl")),
        "steps": done,
    }
    path = write_summary(home, summary)
    text = render(summary)
    print(text, flush=True)
    Deck("Summary", f"<pre>{text}</pre>")
    return str(path)


def _served(home: Home, use_case: str) -> str:
    """The version that a server would load now; nothing before the first promotion."""
    try:
        return read_current(home, use_case)[1]
    except StateError:
        return ""


def _json(verdict: Verdict) -> dict[str, object]:
    absent = verdict.value != verdict.value
    return {
        "rule": verdict.rule,
        "metric": verdict.metric,
        "operator": verdict.operator,
        "limit": verdict.limit,
        "value": None if absent else verdict.value,
        "passed": verdict.passed,
        "note": verdict.note,
    }
