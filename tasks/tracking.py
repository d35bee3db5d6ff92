"""One MLflow run a training, found again by tag, its metrics written in batches (ADR 0008)."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, astuple
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from feature_repo.home import Home, tracking_uri
from feature_repo.tables import Table
from tasks.steps import NO_COST
from tasks.types import Folder, Metrics, TrainingConfig

if TYPE_CHECKING:
    from tasks.watch.seen import Seen

TRAINED = "airworthy.trained"  # the tag that holds the digest of the weights' folder
EXECUTION = "airworthy.execution."  # and the id: a tag for each execution that the training served
LOSSES = ("training_loss", "validation_loss")  # metrics by epoch
COST = ("training_seconds", "training_cpu_seconds", "training_gpu_seconds")  # of all ranks together
BEGAN = "training_began"  # the step of another training's checkpoint that this one began with


def client(home: Home) -> Any:
    """An MLflow client of the home's store (or of ``MLFLOW_TRACKING_URI``)."""
    # MLflow's schema migrations and its telemetry would otherwise talk over our progress.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow's own use of SQLAlchemy is deprecated; that says nothing to our users.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")

    return MlflowClient(tracking_uri=tracking_uri(home))


def experiment_id(mlflow: Any, home: Home, use_case: str) -> str:
    """The use case's experiment, made on first use. Call it under the home's mlflow lock."""
    experiment = mlflow.get_experiment_by_name(use_case)
    if experiment is not None:
        return str(experiment.experiment_id)
    own = tracking_uri(home).endswith(str(home.path("mlflow.db")))  # a server has its own store
    location = home.path("mlartifacts").as_uri() if own else None
    return str(mlflow.create_experiment(use_case, artifact_location=location))


def run_of(mlflow: Any, home: Home, use_case: str, trained: Folder) -> str:
    """The run id of a training, found by the digest of its weights, else a new run."""
    experiment = experiment_id(mlflow, home, use_case)
    found = mlflow.search_runs([experiment], f"tags.`{TRAINED}` = '{trained.digest}'")
    if found:
        return str(found[0].info.run_id)
    run = mlflow.create_run(
        experiment, tags={TRAINED: trained.digest}, run_name=f"{use_case}-{trained.digest[:8]}"
    )
    return str(run.info.run_id)


def tag_execution(mlflow: Any, run: str, execution: str) -> None:
    """Say on a run that an execution went on from its training; the tag's value is the instant
    (ISO, UTC) at which it did so last."""
    mlflow.set_tag(run, f"{EXECUTION}{execution}", datetime.now(timezone.utc).isoformat())


def log_training(
    home: Home,
    use_case: str,
    trained: Folder,
    training_set: Table,
    config: TrainingConfig,
    measured: Metrics,
) -> str:
    """Log parameters and all that was measured of the training, in batches; a repeated call changes
    nothing. Returns the run id."""
    with home.lock("mlflow"):
        mlflow = client(home)
        from mlflow.entities import Metric, Param
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        run = run_of(mlflow, home, use_case, trained)
        if mlflow.get_run(run).info.status == "FINISHED":
            return run
        now = int(time.time() * 1000)
        columns = zip(measured.names, measured.values, measured.steps, strict=True)
        metrics = [Metric(name, value, now, at) for name, value, at in columns]
        params = [Param(k, json.dumps(v)) for k, v in asdict(config).items()]
        params.append(Param("training_set", training_set.digest))
        mlflow.log_batch(run, params=params)
        for place in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            mlflow.log_batch(run, metrics=metrics[place : place + MAX_METRICS_PER_BATCH])
        mlflow.set_terminated(run, "FINISHED")
        return run


def metrics_of(seen: Seen) -> Metrics:
    """What was seen of a training as metrics; one word for one thing with
    ``tasks.watch.telemetry``."""
    names, values, steps = zip(*_rows(seen), strict=True)
    return Metrics(names=list(names), values=list(values), steps=list(steps))


def _rows(seen: Seen) -> Iterator[tuple[str, float, int]]:
    for epoch in seen.curve:
        yield from ((name, getattr(epoch, name), epoch.epoch) for name in LOSSES)
    for point in seen.points:
        yield "step_loss", point.loss, point.step
        yield "gradient_norm", point.gradient_norm, point.step
        yield "rows_per_second", point.rows_per_second, point.step
    for phase, seconds in seen.phases.items():
        yield f"phase_seconds_{phase}", seconds, 0
    for name, value in zip(COST, astuple(seen.cost), strict=True):
        yield name, value, 0
    if seen.began and seen.before == NO_COST:  # of its own checkpoints the cost would be known
        yield BEGAN, seen.began, 0
