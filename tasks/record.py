"""The record of a training in MLflow: a task of its own.

Importing MLflow and looking at its schema takes a process seconds: a training would pay them in
each of its launches, the process that records also compares with the champion and registers.
"""

from __future__ import annotations

from flytekit import task

from feature_repo.tables import Table
from tasks.resources import SMALL
from tasks.tracking import log_training
from tasks.types import Folder, Metrics, State, TrainingConfig


@task(retries=2, timeout=300, requests=SMALL)
def record_training(
    state: State,
    use_case: str,
    trained: Folder,
    training_set: Table,
    config: TrainingConfig,
    metrics: Metrics,
) -> str:
    """The id of the one MLflow run of a training, made where there is none, with parameters and
    metrics."""
    return log_training(state.home(), use_case, trained, training_set, config, metrics)
