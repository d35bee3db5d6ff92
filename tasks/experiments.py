"""Runs side by side, as a Flyte task: a page in the home's reports, and a Deck."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flytekit import Deck, task

from feature_repo.home import Home, digest_of, open_home, write_atomically
from feature_repo.registry import get_use_case
from tasks.figures import rounded
from tasks.page import html_page
from tasks.resources import DATA, SIGNING_ENVIRONMENT, SIGNING_KEY
from tasks.run_pairs import Pair, pairs_with_first
from tasks.run_report import differing, in_lines, page
from tasks.runs import Run, find_runs
from tasks.steps import step
from tasks.types import Step


class Compared(NamedTuple):
    """The report's file, what the pairs show in lines, and what the step did."""

    report: str
    told: str
    step: Step


@task(
    requests=DATA,
    retries=1,
    timeout=timedelta(minutes=30),
    secret_requests=[SIGNING_KEY],  # its own key is among those that certificates are verified by
    environment=SIGNING_ENVIRONMENT,
    enable_deck=True,
    deck_fields=(),
)
def compare_runs(runs: list[str]) -> Compared:
    """Runs side by side; see ``tasks.runs.find_runs`` for their names and what is refused.

    Raises:
        StateError: the names do not mean 2 to 12 runs of one use case.
        CertificateError: a certified model was changed.
    """
    with step("compare") as log:
        home = open_home()
        found = find_runs(home, runs)
        case = get_use_case(found[0].known.use_case)
        pairs = pairs_with_first(home, case, found)
        told = in_lines(case, found, pairs)
        for line in told:
            log.say(line)
        content = page(case, found, pairs)
        Deck("Comparison", content)
        path = write_report(home, case.name, found, pairs, content)
        log.say(f"report: {path}")
    return Compared(str(path), "\n".join(told), log.record)


def write_report(
    home: Home, use_case: str, runs: list[Run], pairs: list[Pair], content: str
) -> Path:
    """The page, and its figures as JSON beside it; the same runs have the same file. Returns the
    page."""
    mark = digest_of({str(place): run.known.id for place, run in enumerate(runs)})[:12]
    path = home.path("reports", f"comparison-{use_case}-{mark}.html")
    figures = {"use_case": use_case, "runs": [_run(run) for run in runs],
               "differing": differing(runs), "first": runs[0].known.name,
               "pairs": [{"run": run.known.name, "rows": pair.rows, "note": pair.note,
                          "differences": pair.told}
                         for run, pair in zip(runs[1:], pairs, strict=True)]}  # fmt: skip
    text = json.dumps(rounded(figures), indent=1, allow_nan=False)
    write_atomically(path.with_suffix(".json"), text.encode())
    write_atomically(path, html_page(f"Runs of {use_case}", content).encode())
    return path


def _run(run: Run) -> dict[str, Any]:
    issued = run.certificate
    return {
        "name": run.known.name,
        "id": run.known.id,
        "certificate": issued.id if issued else "",
        "params": run.params,
        "curve": run.curve,
        "cost": run.cost,
        "test": issued.predicate["metrics"]["test"] if issued else None,
    }
