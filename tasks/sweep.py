"""A sweep as Flyte tasks: checked, planned, searched by processes or pods, concluded."""

from datetime import timedelta
from functools import partial
from typing import NamedTuple

from flytekit import Deck, dynamic, map_task, task

from feature_repo.errors import TrainingError
from feature_repo.tables import Table
from feature_repo.wording import counted
from tasks.resources import SMALL, TRAINING, WAITING_THREADS
from tasks.steps import step
from tasks.sweeps import declared
from tasks.sweeps.declared import Budget, Sweep
from tasks.sweeps.space import chosen_of, count, read_space
from tasks.train import CACHE
from tasks.types import State, Step, TrainingConfig

HERE, PODS = "processes", "pods"
LONGEST = timedelta(days=3)


class Swept(NamedTuple):
    """The base config with what the sweep chose, its report's file, and what the step did."""

    config: TrainingConfig
    report: str
    step: Step


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=5))
def check_sweep(
    config: TrainingConfig,
    space: dict[str, str],
    own: dict[str, dict[str, str]],
    trials: int,
    workers: int,
    budget: Budget,
    where: str,
) -> dict[str, str]:
    """Check the inputs of a sweep, before anything is computed. Returns the space: where it is
    empty, the use case's ``own`` for the config's model.

    Raises:
        TrainingError: the space, the budget, or a number cannot be; names it and the way out.
    """
    space = space or own.get(config.model, {})
    distributions = read_space(space, config)
    chosen_of(config, distributions)
    configurations = count(distributions)
    for name, number in (("trials", trials), ("workers", workers)):
        if number < 1:
            raise TrainingError(f"{name} is {number}, but must be at least 1; mend it")
    if configurations < trials:
        raise TrainingError(
            f"the search space holds {configurations} configurations, which is less than {trials} "
            "trials; widen it, or ask for fewer trials"
        )
    if where not in (HERE, PODS):
        raise TrainingError(f"where is {where!r}, but must be {HERE} or {PODS}, which workers are")
    return space


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=5))
def plan_sweep(
    state: State,
    use_case: str,
    declaration: str,
    training_set: Table,
    config: TrainingConfig,
    space: dict[str, str],
    trials: int,
    budget: Budget,
) -> Sweep:
    """The sweep over a training set, by its name; one that was begun before is gone on with."""
    code = f"{declaration} {CACHE.version}"
    name = declared.name_of(use_case, training_set.digest, config, space, code)
    return Sweep(name, use_case, training_set, config, space, code, trials, budget)


@task(requests=TRAINING, retries=2, timeout=LONGEST, environment=WAITING_THREADS)
def search_here(state: State, sweep: Sweep, workers: int) -> int:
    """Run the workers as processes of this machine; how many trials the sweep has ended.

    Raises:
        TrainingError: all workers died, again and again.
    """
    from tasks.sweeps.processes import run_workers
    from tasks.sweeps.storage import open_store
    from tasks.sweeps.study import FINISHED, open_study, progress
    from tasks.sweeps.tracking import Tracker

    home, tracker = state.home(), Tracker(state.home(), sweep)
    with step("sweep") as log:
        path, store = declared.write(home, sweep), open_store(home, sweep.name)
        with home.lock(f"sweep-{sweep.name}"):
            study = open_study(store, sweep)
        before = len(study.get_trials(deepcopy=False, states=FINISHED))
        log.say(
            f"{sweep.name}: {before} of {sweep.trials} trials ended before, "
            f"{counted(workers, 'worker')}"
        )
        run_workers(path, workers, log.say, lambda: progress(tracker.try_to(study, log.say)))
        return len(study.get_trials(deepcopy=False, states=FINISHED))


@task(
    requests=TRAINING, retries=3, timeout=LONGEST, environment=WAITING_THREADS, shared_memory=True
)
def search_in_pod(worker: int, state: State, sweep: Sweep) -> int:
    """Be one of the workers; how many trials it ended. A pod that is lost is started again by
    Flyte, and its trial goes to whichever worker is free first."""
    from tasks.sweeps.tracking import Tracker
    from tasks.sweeps.worker import work

    home, tracker = state.home(), Tracker(state.home(), sweep)
    with step(f"sweep, worker {worker}") as log:
        declared.write(home, sweep)
        return work(home, sweep, log.say, partial(tracker.try_to, say=log.say))


@dynamic(requests=SMALL, retries=2, timeout=LONGEST)
def search_on_pods(state: State, sweep: Sweep, workers: int) -> int:
    """Run each worker as a task in a pod of its own; how many trials they ended."""
    ended = map_task(partial(search_in_pod, state=state, sweep=sweep))(worker=list(range(workers)))
    return add_up(ended=ended)


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=5))
def add_up(ended: list[int]) -> int:
    """How many trials the workers ended together."""
    return sum(ended)


@task(requests=SMALL, retries=2, timeout=timedelta(hours=1), enable_deck=True, deck_fields=())
def conclude_sweep(state: State, sweep: Sweep, ended: int) -> Swept:
    """The best configuration, with a report in a Deck and in the home, and all trials in MLflow.
    ``ended``: what the search said, since this comes after it.

    Raises:
        TrainingError: no trial is complete.
        StateError: MLflow does not take the trials; the search is whole, and is not done again.
    """
    from feature_repo.home import write_atomically
    from tasks.page import html_page
    from tasks.sweeps import report
    from tasks.sweeps import study as studies
    from tasks.sweeps.space import config_of
    from tasks.sweeps.storage import open_store
    from tasks.sweeps.tracking import Tracker

    home = state.home()
    with step("sweep's end") as log:
        study = studies.open_study(open_store(home, sweep.name), sweep)
        trials = study.get_trials(deepcopy=False)
        log.say(report.summary(sweep, trials))
        best = studies.best(trials)
        if best is None:
            raise TrainingError(
                f"sweep {sweep.name}: no trial is complete; {studies.why_none(trials)}"
            )
        content = report.content(sweep, study)
        Deck("Sweep", content)
        path = home.path("reports", f"sweep-{sweep.use_case}.html")
        write_atomically(path, html_page(f"Sweep of {sweep.use_case}", content).encode())
        Tracker(home, sweep).finish(trials)
        declared.forget(home, sweep.name)
        chosen = ", ".join(f"{name} {report.said(v)}" for name, v in sorted(best.params.items()))
        log.say(f"chosen: {chosen}; {path}")
    return Swept(config_of(sweep.config, best.params), str(path), log.record)
