"""A sweep's study: who may train what next, so that no trial is lost and none counted twice.

Whoever takes a trial holds the sweep's lock, in which it first settles what the dead left: their
trials fail, and the parameters wait for the next worker. Each step of it may be cut short by a
kill: the next one to take a trial finds what was not done, by the trials' own marks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import optuna
from optuna.trial import TrialState

from feature_repo.home import Home
from tasks.sweeps.declared import Spent, Sweep
from tasks.sweeps.draw import draw, parameters
from tasks.sweeps.space import chosen_of, read_space
from tasks.sweeps.storage import WORKER, Store, running

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

AGAIN_OF, TRIES = "again_of", "tries"  # the dead trial's number; how often it was begun
SPENT, EPOCHS, CURVE, WHY = "spent", "epochs", "curve", "why"
CUT = "cut"  # the budget ended it: it failed, and waits until there is more to spend
MOST_TRIES = 3  # a configuration that kills its worker each time must not stop the sweep
REDUCTION = 3  # of Hyperband: a third goes on
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Turn(enum.Enum):
    """What a worker does that got no trial."""

    WAIT = "others are at the last trials"
    OVER = "the sweep is over"


class Progress(NamedTuple):
    """How many trials ended, and how many configurations were given up."""

    ended: int = 0
    given_up: int = 0


def progress(trials: list[FrozenTrial]) -> Progress:
    """How far a sweep is."""
    given_up = (
        trial.state == TrialState.FAIL
        and int(trial.user_attrs.get(TRIES, 1)) >= MOST_TRIES
        and CUT not in trial.user_attrs
        for trial in trials
    )
    return Progress(sum(trial.state in FINISHED for trial in trials), sum(given_up))


def open_study(store: Store, sweep: Sweep) -> Study:
    """The sweep's study, made on first use; the base configuration is the first trial. Call it
    under the sweep's lock when it may be the first use.

    Raises:
        TrainingError: the configuration lies outside of the space.
    """
    study = optuna.create_study(
        storage=store.storage,
        study_name=f"{store.scope}{sweep.use_case}-{sweep.name}",
        direction="minimize",
        sampler=optuna.samplers.RandomSampler(),  # what is asked for was drawn before, and waits
        pruner=_pruner(sweep),
        load_if_exists=True,
    )
    base = chosen_of(sweep.config, read_space(sweep.space, sweep.config))
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(base)
    return study


def take(home: Home, store: Store, study: Study, sweep: Sweep, worker: str) -> Trial | Turn:
    """The next trial to train, marked as this worker's, or what else to do."""
    distributions = read_space(sweep.space, sweep.config)
    with home.lock(f"sweep-{sweep.name}"):
        settle(store, study, sweep)
        trials = study.get_trials(deepcopy=False)
        under_way = len(running(study))
        finished = sum(trial.state in FINISHED for trial in trials)
        if finished >= sweep.trials or spent(trials).over(sweep.budget):
            return Turn.WAIT if under_way else Turn.OVER
        if finished + under_way >= sweep.trials:
            return Turn.WAIT
        if not any(trial.state == TrialState.WAITING for trial in trials):
            chosen = draw(sweep, trials, distributions)
            if chosen is None:  # what was given up is all that is left
                return Turn.WAIT if under_way else Turn.OVER
            study.enqueue_trial(chosen)
        trial = study.ask(distributions)
        with store.beats(trial._trial_id):  # one heartbeat, before the owner is known
            trial.set_user_attr(WORKER, worker)
        return trial


def settle(store: Store, study: Study, sweep: Sweep) -> None:
    """Fail the trials of the dead, and have those parameters wait that do not yet; those that the
    budget cut off, once there is more to spend."""
    store.fail_dead(study)
    trials = study.get_trials(deepcopy=False)
    waiting = {trial.user_attrs.get(AGAIN_OF) for trial in trials}
    over = spent(trials).over(sweep.budget)
    for trial in trials:
        if trial.state != TrialState.FAIL or trial.number in waiting:
            continue
        chosen, cut = parameters(trial), CUT in trial.user_attrs
        tries = int(trial.user_attrs.get(TRIES, 1)) + (not cut)
        whole = chosen.keys() == sweep.space.keys()
        if whole and tries <= MOST_TRIES and not (cut and over):
            study.enqueue_trial(chosen, {AGAIN_OF: trial.number, TRIES: tries})


def spent(trials: list[FrozenTrial]) -> Spent:
    """What all trials took, those of the dead up to their last epoch."""
    total = Spent()
    for trial in trials:
        total += Spent(**trial.user_attrs.get(SPENT, {}))
    return total


def best(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The complete trial with the lowest validation loss; the earliest of equals."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def epochs(trials: list[FrozenTrial]) -> int:
    """Epochs that were trained in finished trials."""
    return sum(trial.user_attrs.get(EPOCHS, 0) for trial in trials if trial.state in FINISHED)


def why_none(trials: list[FrozenTrial]) -> str:
    """Why no trial is complete, with the way out."""
    reasons = [str(trial.user_attrs[WHY]) for trial in trials if WHY in trial.user_attrs]
    if not reasons:
        return "all were lost with their workers; see what these said"
    return f"the first one ended so: {reasons[0]}; mend that, narrow the space, or widen the budget"


def _pruner(sweep: Sweep) -> BasePruner:
    if not sweep.prune:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=sweep.config.epochs, reduction_factor=REDUCTION
    )
