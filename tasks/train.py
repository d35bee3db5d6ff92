"""Training as named Flyte tasks around one function; the workflow's conditional picks one.

``with_overrides(task_config=…)`` would change the shared task for later calls, so how many
ranks and nodes there are is a task of its own, fixed when it is registered.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flytekit import task
from flytekitplugins.kfpytorch import CleanPodPolicy, Elastic, RunPolicy

from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from tasks.cache import code_cache
from tasks.folders import store_folder
from tasks.resources import NODES, RANKS_PER_NODE, TRAINING, WAITING_THREADS
from tasks.steps import step
from tasks.types import Folder, State, Step, TrainingConfig

CACHE = code_cache(
    "tasks.fallback",
    "tasks.fit",
    "tasks.train",
    "serving.network",
    "serving.preprocess",
    "feature_repo.fallback",
    "feature_repo.inputs",
    "feature_repo.local_time",
    libraries=("torch", "safetensors", "numpy"),
)
# The worker that starts first must outwait the others' image pulls.
RENDEZVOUS = {"timeout": 900, "join_timeout": 900, "read_timeout": 900}
MONITOR_SECONDS = 1  # the default of 5 is what a short training waits for in vain
RUN_POLICY = RunPolicy(
    clean_pod_policy=CleanPodPolicy.RUNNING,
    ttl_seconds_after_finished=86_400,
    active_deadline_seconds=21_600,
    backoff_limit=2,
)
COMMON: dict[str, Any] = {
    "cache": CACHE,
    "requests": TRAINING,
    "shared_memory": True,
    "retries": 2,
    "timeout": timedelta(hours=6),
    "environment": {"PYTHONUNBUFFERED": "1", **WAITING_THREADS},
}


class Trained(NamedTuple):
    """Weights with their preprocessing and record, and what the step did."""

    trained: Folder
    step: Step


def _train(state: State, use_case: str, training_set: Table, config: TrainingConfig) -> Trained:
    """Fit on this rank, the fallback too where one is declared; rank 0 stores the result and logs
    one MLflow run."""
    from tasks.fallback import fit_all, save_all
    from tasks.tracking import log_training

    declared = get_use_case(use_case)
    if os.environ.get("RANK", "0") != "0":
        fit_all(declared, training_set, config, lambda message: None)
        return Trained(Folder("trained", "", ""), Step("train", 0.0, "", ""))
    with step("train") as s:
        fitted, fallback = fit_all(declared, training_set, config, s.say)

        def write(folder: Path) -> None:
            save_all(fitted, fallback, config, folder)

        trained = store_folder(state.home(), "trained", write)
        log_training(state.home(), use_case, trained, training_set, config, fitted.curve)
        ranks = os.environ.get("WORLD_SIZE", "1")
        s.say(
            f"{fitted.training_rows:,} training and {fitted.validation_rows:,} validation rows, "
            f"ranks: {ranks}, best epoch {fitted.best_epoch}, weights {trained.digest[:12]}"
        )
    return Trained(trained, s.record)


@task(
    task_config=Elastic(
        nnodes=1, nproc_per_node=1, increase_shared_mem=False, monitor_interval=MONITOR_SECONDS
    ),
    **COMMON,
)
def train_one_process(
    state: State, use_case: str, declaration: str, training_set: Table, config: TrainingConfig
) -> Trained:
    """Train in one process. ``declaration`` is the use case's digest, part of the cache key."""
    return _train(state, use_case, training_set, config)


@task(
    task_config=Elastic(
        nnodes=1, nproc_per_node=2, increase_shared_mem=False, monitor_interval=MONITOR_SECONDS
    ),
    **COMMON,
)
def train_two_ranks(
    state: State, use_case: str, declaration: str, training_set: Table, config: TrainingConfig
) -> Trained:
    """Train on two ranks of one machine (data parallel, gloo on CPU, nccl on GPUs)."""
    return _train(state, use_case, training_set, config)


@task(
    task_config=Elastic(
        nnodes=NODES,
        nproc_per_node=RANKS_PER_NODE,
        rdzv_configs=RENDEZVOUS,
        run_policy=RUN_POLICY,
        increase_shared_mem=False,
    ),
    **COMMON,
)
def train_on_nodes(
    state: State, use_case: str, declaration: str, training_set: Table, config: TrainingConfig
) -> Trained:
    """Train on several nodes: a Kubeflow PyTorchJob, which needs a cluster."""
    return _train(state, use_case, training_set, config)
