"""The measured skew: every answer's feature vector against the offline rows of today."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import NamedTuple

from flytekit import Deck, task

from feature_repo import offline
from feature_repo.home import Home, open_home, write_atomically
from feature_repo.registry import get_use_case
from feature_repo.ticks import aware
from feature_repo.wording import counted
from serving.skew import SkewReport, measure
from serving.telemetry import write_skew
from tasks.data_pictures import shares
from tasks.page import from_markdown, markdown_table
from tasks.pictures import inline_png
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import Step


class Measured(NamedTuple):
    """The report's file, the share of values that differ, and what the step did."""

    report: str
    share: float
    step: Step


@task(
    requests=DATA, retries=2, timeout=timedelta(minutes=30), enable_deck=True, deck_fields=()
)  # fmt: skip
def measure_skew(use_case: str, since: datetime) -> Measured:
    """Recompute offline what each answer since then was given from, and report the differences.

    Skew is a finding and no failure: a late event changes rows that were served in good faith.

    Raises:
        DeclarationError: no such use case.
        StateError: the prediction log or the data cannot be read.
    """
    with step("skew") as s:
        home, declared = open_home(), get_use_case(use_case)
        start = aware(since)
        version = offline.newest(home, declared)
        report = measure(home, declared, version.built.views, start, version.until)
        path = write_report(home, report)
        Deck("Skew", deck(report))
        s.say(describe(report))
    return Measured(str(path), report.share, s.record)


def write_report(home: Home, report: SkewReport) -> Path:
    """The report as JSON, and its shares as gauges for Prometheus's textfile collector."""
    path = home.path("reports", f"skew-{report.use_case}.json")
    write_atomically(path, json.dumps(report.document(), indent=2).encode())
    write_skew(path.with_suffix(".prom"), report)
    return path


def describe(report: SkewReport) -> str:
    """The skew in one line; the worst features and their answers by name."""
    values = sum(skew.compared for skew in report.features)
    differ = sum(skew.differing for skew in report.features)
    text = f"{counted(report.answers, 'answer')}, {counted(values, 'value')}, "
    text += f"{differ:,} differ ({report.share:.4%})"
    worst = sorted((f for f in report.features if f.differing), key=lambda f: -f.differing)[:3]
    named = [f"{f.name} {f.differing:,} (for example prediction {f.examples[0]})" for f in worst]
    left = f"; {counted(report.left_out, 'answer')} cannot be compared" if report.left_out else ""
    return text + (f": {', '.join(named)}" if named else "") + left


def deck(report: SkewReport) -> str:
    """The report as HTML: a line, a picture, a table."""
    rows = [
        [s.name, s.view, f"{s.compared:,}", f"{s.differing:,}", f"{s.share:.4%}",
         f"{s.largest:.6g}", f"{s.missing:,}", " ".join(s.examples)]
        for s in (*report.features, *report.ages)
    ]  # fmt: skip
    head = ("feature, or view whose age it is", "view", "compared", "differing", "share",
            "largest difference", "on one side only", "prediction ids")  # fmt: skip
    names = [skew.name for skew in report.features]
    picture = shares(names, [skew.share for skew in report.features], "share that differs")
    said = f"<p>{escape(describe(report))}</p>"
    return said + inline_png(picture, "Skew by feature") + from_markdown(markdown_table(head, rows))
