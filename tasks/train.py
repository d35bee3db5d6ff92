"""Training as named Flyte tasks around one function; the workflow's conditional picks one.

``with_overrides(task_config=…)`` would change the shared task for later calls, so how many
ranks and nodes there are is a task of its own, fixed when it is registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from flytekit import Deck, current_context, task
from flytekit.exceptions.user import FlyteDataNotFoundException
from flytekitplugins.kfpytorch import CleanPodPolicy, Elastic, RunPolicy

from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from tasks.cache import code_cache
from tasks.folders import store_folder
from tasks.resources import (
    NODES,
    RANKS_PER_NODE,
    TOLERATIONS,
    TRAINING,
    WAITING_THREADS,
    training_pod,
)
from tasks.steps import NO_COST, step
from tasks.types import Folder, Metrics, State, Step, TrainingConfig

if TYPE_CHECKING:
    from tasks.fit import Fitted
    from tasks.training.attempts import Attempt
    from tasks.training.ranks import Rank
    from tasks.watch.seen import Seen

CODE = (
    "tasks.calibration",
    "tasks.fallback",
    "tasks.fit",
    "tasks.rows",
    "tasks.train",
    "tasks.training",
    "serving.network",
    "serving.preprocess",
    "serving.tabm_network",
    "feature_repo.fallback",
    "feature_repo.inputs",
    "feature_repo.local_time",
    "feature_repo.tables",
)
CACHE = code_cache(
    *CODE, libraries=("torch", "safetensors", "numpy", "tabm", "rtdl_num_embeddings")
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
    "pod_template": training_pod(TOLERATIONS),
    "retries": 2,
    "timeout": timedelta(hours=6),
    "enable_deck": True,
    "deck_fields": (),
    "environment": {"PYTHONUNBUFFERED": "1", **WAITING_THREADS},
}


class Trained(NamedTuple):
    """Weights with their preprocessing and record, the address of the last checkpoint, what was
    measured on the way, and what the step did."""

    trained: Folder
    checkpoint: str
    metrics: Metrics
    step: Step


# Of ranks but 0.
NOTHING = Trained(Folder("trained", "", ""), "", Metrics([], [], []), Step("train", 0.0, "", ""))


def _train(
    state: State,
    use_case: str,
    declaration: str,
    training_set: Table,
    config: TrainingConfig,
    resume_from: str,
    checkpoint_steps: int,
) -> Trained:
    """Fit on this rank, the fallback too where one is declared; rank 0 stores the result."""
    from tasks.fallback import save_all
    from tasks.tracking import metrics_of
    from tasks.training.attempts import open_attempt
    from tasks.training.ranks import process_group
    from tasks.watch.curves import page
    from tasks.watch.watcher import spared

    home = state.home()
    made_of = {
        "use_case": use_case,
        "declaration": declaration,
        "training_set": training_set.digest,
        "config": asdict(config),
        "code": CACHE.version,
    }
    with (
        process_group() as rank,
        open_attempt(
            home, made_of, rank, every=checkpoint_steps, resume_from=resume_from, at=told_before()
        ) as attempt,
    ):
        if not rank.first:
            _fit(use_case, training_set, config, attempt, rank, lambda message: None)
            return NOTHING
        with step("train") as s:
            tell_next(attempt.uri)
            fitted, fallback, seen = _fit(use_case, training_set, config, attempt, rank, s.say)
            s.took(seen.cost, seen.before.seconds)
            trained = store_folder(
                home, "trained", lambda folder: save_all(fitted, fallback, config, folder)
            )
            with spared(s.say):
                Deck("Training", page(seen))
            attempt.finish(trained.digest, s.say)
            s.say(
                f"{fitted.training_rows:,} training and {fitted.validation_rows:,} validation "
                f"rows, ranks: {rank.world}, best epoch {fitted.best_epoch}, "
                f"trained {trained.digest[:12]}, checkpoint {fitted.checkpoint or 'none'}"
            )
    return Trained(trained, fitted.checkpoint, metrics_of(seen), s.record)


def _fit(
    use_case: str,
    training_set: Table,
    config: TrainingConfig,
    attempt: Attempt,
    rank: Rank,
    say: Callable[[str], None],
) -> tuple[Fitted, Fitted | None, Seen]:
    """Model, fallback and what was seen of them; rank 0 looks on."""
    from tasks.fallback import fit_all
    from tasks.training.meter import Meter
    from tasks.watch.seen import Seen
    from tasks.watch.watcher import watching

    declared, meter = get_use_case(use_case), Meter()
    if rank.first:
        with watching(use_case, config, say) as watch:
            fitted = fit_all(declared, training_set, config, watch.say, attempt, watch)
        points = watch.points
    else:
        fitted, points = fit_all(declared, training_set, config, say, attempt), []
    model, fallback = fitted
    before = model.before + (fallback.before if fallback else NO_COST)
    seen = Seen(
        curve=model.curve, points=points, phases=model.phases, cost=meter.read(rank) + before,
        before=before, began=model.began,
    )  # fmt: skip
    return model, fallback, seen


def told_before() -> str:
    """The attempt of this very task whose pod died, from Flyte's checkpoint; locally Flyte keeps
    none, and the attempt is found in the home."""
    checkpoint = current_context().checkpoint if _has_checkpoint() else None
    try:
        before = checkpoint.read() if checkpoint else None
    except FlyteDataNotFoundException:  # it died before it told
        return ""
    return before.decode() if before else ""


def tell_next(uri: str) -> None:
    """Have Flyte's checkpoint name the attempt, for the pod that takes over when this one dies."""
    if _has_checkpoint():
        current_context().checkpoint.write(uri.encode())


def _has_checkpoint() -> bool:
    try:
        return current_context().checkpoint is not None
    except NotImplementedError:  # flytekit's word for a place without one
        return False


@task(
    task_config=Elastic(
        nnodes=1, nproc_per_node=1, increase_shared_mem=False, monitor_interval=MONITOR_SECONDS
    ),
    **COMMON,
)
def train_one_process(
    state: State,
    use_case: str,
    declaration: str,
    training_set: Table,
    config: TrainingConfig,
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Trained:
    """Train in one process. ``declaration`` is the use case's digest, part of the cache key;
    ``resume_from`` a checkpoint, or the folder of several, to begin with; ``checkpoint_steps`` how
    many steps lie between two within an epoch, 0 for none."""
    return _train(state, use_case, declaration, training_set, config, resume_from, checkpoint_steps)


@task(
    task_config=Elastic(
        nnodes=1, nproc_per_node=2, increase_shared_mem=False, monitor_interval=MONITOR_SECONDS
    ),
    **COMMON,
)
def train_two_ranks(
    state: State,
    use_case: str,
    declaration: str,
    training_set: Table,
    config: TrainingConfig,
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Trained:
    """Train on two ranks of one machine (data parallel, gloo on CPU, nccl on GPUs)."""
    return _train(state, use_case, declaration, training_set, config, resume_from, checkpoint_steps)


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
    state: State,
    use_case: str,
    declaration: str,
    training_set: Table,
    config: TrainingConfig,
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Trained:
    """Train on several nodes: a Kubeflow PyTorchJob, which needs a cluster."""
    return _train(state, use_case, declaration, training_set, config, resume_from, checkpoint_steps)
