"""Experiments: how long one must run, its beginning, and what it has shown."""

from datetime import datetime

from flytekit import workflow

from tasks.ab_test import analyse_experiment, begin_experiment, plan_experiment, replay_example


@workflow
def plan(
    mde: float,
    daily_units: int,
    base_rate: float = 0.0,
    control_weight: float = 0.5,
    treatment_weight: float = 0.5,
    alpha: float = 0.05,
    power: float = 0.8,
    looks: int = 5,
    history: str = "",
    numerator: str = "",
    denominator: str = "",
    covariate: str = "",
    covariate_denominator: str = "",
) -> str:
    """Print the units and days that each way to look needs, before an experiment starts.

    Args:
        mde: the least difference that matters.
        daily_units: new units a day, all traffic.
        base_rate: of a share such as errors; 0: the history says the variance.
        control_weight: the control's share of the units.
        treatment_weight: the treatment's.
        alpha: two-sided level.
        power: probability of finding a difference of ``mde``.
        looks: planned looks.
        history: past outcomes (.csv or Parquet): unit and the columns below.
        numerator: column that is averaged, or summed over the denominator.
        denominator: column of a ratio of sums.
        covariate: column that was known before.
        covariate_denominator: its denominator.
    """
    planned = plan_experiment(
        mde=mde,
        daily_units=daily_units,
        base_rate=base_rate,
        control_weight=control_weight,
        treatment_weight=treatment_weight,
        alpha=alpha,
        power=power,
        looks=looks,
        history=history,
        numerator=numerator,
        denominator=denominator,
        covariate=covariate,
        covariate_denominator=covariate_denominator,
    )
    return planned.told


@workflow
def begin(declaration: str) -> str:
    """Begin an experiment: its declaration goes into the home and cannot be changed from then on.

    Args:
        declaration: a JSON file with the fields of ``Experiment`` in serving/experiment.py.
    """
    return begin_experiment(declaration=declaration)


@workflow
def example(name: str = "flights-by-queue", salt: str = "2013-11") -> str:
    """Begin an experiment on real flights, replayed; returns the folder of its files.

    Args:
        name: of the experiment.
        salt: another one assigns anew, under another name.
    """
    return replay_example(name=name, salt=salt)


@workflow
def analyse(name: str, outcomes: str, at: datetime, exposures: str = "") -> str:
    """Say what an experiment has shown at an instant; returns the report's file.

    Args:
        name: of an experiment that has begun.
        outcomes: .csv, .parquet or a folder of Parquet files: unit, at and the metrics' columns.
        at: what happened later is not seen (UTC).
        exposures: the same: unit, arm, exposed_at; empty: the home's own exposure log.
    """
    analysed = analyse_experiment(name=name, outcomes=outcomes, exposures_file=exposures, at=at)
    return analysed.report
