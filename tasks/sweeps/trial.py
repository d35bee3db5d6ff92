"""One trial: a training that reports each epoch, ends when it is pruned, and is remembered."""

from __future__ import annotations

import hashlib
import json
import math
import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import TrialState

from feature_repo.errors import DivergedError
from feature_repo.home import Home, write_atomically
from feature_repo.registry import get_use_case
from feature_repo.wording import counted
from tasks.fit import fit
from tasks.sweeps import study as studies
from tasks.sweeps.declared import Spent, Sweep
from tasks.sweeps.space import config_of
from tasks.training.loop import Watch
from tasks.training.run import Epoch, Position

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

    from tasks.types import TrainingConfig


Curve = list[tuple[float, float]]  # training and validation loss, by epoch


class BudgetSpent(Exception):  # noqa: N818 -- it is no error
    """The sweep's budget is spent: its trials end with the epoch."""


class Reporter(Watch):
    """Tells the study each epoch of a trial, and ends the training where the study says so.

    The value is the best validation loss so far, which is what a training keeps.
    """

    def __init__(self, study: Study, trial: Trial, sweep: Sweep) -> None:
        super().__init__(lambda message: None, sweep.config)
        self.study, self.trial, self.sweep = study, trial, sweep
        self.curve: Curve = []
        self.epochs = 0  # trained here
        self._told = 0
        self._began = (time.perf_counter(), time.process_time())

    def remember(self, curve: Curve) -> None:
        """Tell epochs that an equal training had; it is pruned where it would have been."""
        for number, losses in enumerate(curve, start=1):
            self._tell(number, losses)

    def start_anew(self) -> None:
        """What is told from here on is trained, from the first epoch."""
        self.curve = []

    def epoch(self, epoch: Epoch) -> None:
        """Tell an epoch that was just trained.

        Raises:
            TrialPruned: it is not worth more epochs.
            BudgetSpent: there is nothing left to spend.
        """
        self.epochs += 1
        self.trial.set_user_attr(studies.SPENT, asdict(self.spent))
        self._tell(epoch.epoch, (epoch.training_loss, epoch.validation_loss))
        trials = self.study.get_trials(deepcopy=False)
        if not self._whole and studies.spent(trials).over(self.sweep.budget):
            raise BudgetSpent("the budget is spent")

    @property
    def best(self) -> float:
        """The least validation loss of the curve."""
        return min((losses[1] for losses in self.curve), default=math.inf)

    @property
    def spent(self) -> Spent:
        """Since the trial began here."""
        import torch

        seconds = time.perf_counter() - self._began[0]
        cpu = time.process_time() - self._began[1]
        gpu = seconds if torch.cuda.is_available() else 0.0
        return Spent(round(seconds, 3), round(cpu, 3), round(gpu, 3))

    @property
    def _whole(self) -> bool:
        """The training is over by its own rule: its epochs, or the patience, are spent."""
        epochs = [
            Epoch(epoch=number, training_loss=training, validation_loss=validation)
            for number, (training, validation) in enumerate(self.curve, start=1)
        ]
        return Position(curve=epochs).done(config_of(self.sweep.config, self.trial.params))

    def _tell(self, number: int, losses: tuple[float, float]) -> None:
        # A training that a canary sent back begins with its first epoch again.
        self.curve = [*self.curve[: number - 1], losses]
        if number <= self._told:
            return
        self._told = number
        self.trial.report(self.best, number)
        # A training that is over is complete, whatever the last rung says.
        if not self._whole and self.trial.should_prune():
            raise TrialPruned


class Outcome(NamedTuple):
    """What came of a trial: whether it counts, what is said of it, whether it failed."""

    ended: bool
    said: str
    failed: bool = False


def train(home: Home, study: Study, trial: Trial, sweep: Sweep) -> Outcome:
    """Train a trial to its end, and tell the study.

    Equal parameters on equal data and code are not trained twice. A training that diverges is
    told as pruned. One that the budget ends fails, and waits until there is more to spend; where
    anything else goes wrong it fails too, and its parameters wait for another try.
    """
    memory = Memory(home, sweep, config_of(sweep.config, trial.params))
    reporter = Reporter(study, trial, sweep)
    state, why = TrialState.COMPLETE, ""
    try:
        try:
            why = _run(sweep, memory, reporter)
        except TrialPruned:
            state = TrialState.PRUNED
        except DivergedError as exc:
            state, why = TrialState.PRUNED, str(exc)
        except BudgetSpent as exc:
            state, why = TrialState.FAIL, str(exc)
            trial.set_user_attr(studies.CUT, 1)
        memory.keep(reporter.curve, whole=state == TrialState.COMPLETE)
        _finish(study, trial, reporter, state, why)
    except UpdateFinishedTrialError:
        left = f"trial {trial.number} was taken for dead, and another has its parameters: left"
        return Outcome(False, left)
    except Exception as exc:  # out of memory, a stall, a bug: whatever one training can do
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        traceback.print_exc()
        return Outcome(False, f"trial {trial.number} failed: {exc!r}", failed=True)
    ended = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(state, "cut off")
    said = (
        f"trial {trial.number} {ended} after {counted(len(reporter.curve), 'epoch')}: "
        f"validation loss {reporter.best:.5f}{f' ({why})' if why else ''}"
    )
    return Outcome(state in studies.FINISHED, said)


def _run(sweep: Sweep, memory: Memory, reporter: Reporter) -> str:
    """Train, as far as no equal training did before."""
    reporter.remember(memory.curve)
    if memory.whole:
        return "remembered"
    reporter.start_anew()
    fit(
        get_use_case(sweep.use_case), sweep.training_set, memory.config, lambda message: None,
        watch=reporter,
    )  # fmt: skip
    return ""


def _finish(study: Study, trial: Trial, reporter: Reporter, state: TrialState, why: str) -> None:
    trial.set_user_attr(studies.SPENT, asdict(reporter.spent))
    trial.set_user_attr(studies.EPOCHS, reporter.epochs)
    trial.set_user_attr(studies.CURVE, reporter.curve)
    if why:
        trial.set_user_attr(studies.WHY, why)
    value = reporter.best if state == TrialState.COMPLETE else None
    study.tell(trial, value, state, skip_if_finished=True)


class Memory:
    """The losses of an equal training, in whichever sweep it was; ``whole``: to its end."""

    def __init__(self, home: Home, sweep: Sweep, config: TrainingConfig) -> None:
        self.config = config
        told = [sweep.use_case, sweep.training_set.digest, asdict(config), sweep.code]
        key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self._path = home.path("sweeps", "trials", f"{key}.json")
        self.curve: Curve = []
        self.whole = False
        if self._path.exists():
            kept = json.loads(self._path.read_bytes())
            self.curve, self.whole = [tuple(pair) for pair in kept["curve"]], kept["whole"]

    def keep(self, curve: Curve, *, whole: bool) -> None:
        """Remember it, unless more is remembered already."""
        if not self.whole and (whole or len(curve) > len(self.curve)):
            content = {"config": asdict(self.config), "curve": curve, "whole": whole}
            write_atomically(self._path, json.dumps(content).encode())
