"""One MLflow run a training, found again by tag, its metrics written in batches (ADR 0008)."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from feature_repo.home import Home, tracking_uri
from feature_repo.tables import Table
from tasks.types import Folder, TrainingConfig

if TYPE_CHECKING:
    from tasks.training.run import Epoch

TRAINED = "airworthy.trained"  # the tag that holds the digest of the weights' folder
EXECUTION = "airworthy.execution."  # and the id: a tag for each execution that the training served
LOSSES = ("training_loss", "validation_loss")  # metrics by epoch
COST = ("training_seconds", "training_cpu_seconds", "training_gpu_seconds")  # of all ranks together


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
    curve: list[Epoch],
) -> None:
    """Log parameters and the whole curve in one batch; a repeated call changes nothing."""
    with home.lock("mlflow"):
        mlflow = client(home)
        from mlflow.entities import Metric, Param

        run = run_of(mlflow, home, use_case, trained)
        if mlflow.get_run(run).info.status == "FINISHED":
            return
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, getattr(epoch, name), now, epoch.epoch)
            for epoch in curve
            for name in LOSSES
        ]
        params = [Param(k, json.dumps(v)) for k, v in asdict(config).items()]
        params.append(Param("training_set", training_set.digest))
        mlflow.log_batch(run, metrics=metrics, params=params)
        mlflow.set_terminated(run, "FINISHED")
