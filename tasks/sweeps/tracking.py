"""A sweep in MLflow: one run, and a child run for each of its trials that ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from feature_repo.errors import StateError
from feature_repo.home import Home
from tasks.sweeps import study as studies
from tasks.sweeps.declared import Spent, Sweep
from tasks.sweeps.space import config_of
from tasks.tracking import COST, LOSSES, client, experiment_id

if TYPE_CHECKING:
    from optuna.study import Study

SWEEP = "airworthy.sweep"  # the tag that holds the sweep's name, on its run and on its trials'
TRIAL = "airworthy.trial"  # and the trial's number
HOME = "airworthy.home"  # and the home's id: others may share the MLflow, and run the same sweep
PARENT = "mlflow.parentRunId"
RETRY_SECONDS = 600.0  # an MLflow that does not answer is asked for minutes, each time


class Tracker:
    """Logs trials that ended and are not logged; whoever logged them, and however often asked."""

    def __init__(self, home: Home, sweep: Sweep) -> None:
        self.home, self.sweep = home, sweep
        self._logged: set[int] | None = None
        self._parent = ""
        self._seen: list[FrozenTrial] = []
        self._failed = False
        self._not_before = 0.0

    def log(self, trials: list[FrozenTrial]) -> None:
        """A child run for each finished trial that has none."""
        ended = [trial for trial in trials if trial.state in studies.FINISHED]
        if self._logged is not None and self._logged >= {trial.number for trial in ended}:
            return
        with self.home.lock("mlflow"):
            mlflow = client(self.home)
            # Others may log too, so what is there is asked for each time something is new.
            self._parent, self._logged = self._known(mlflow)
            for trial in ended:
                if trial.number not in self._logged:
                    self._child(mlflow, trial)
                    self._logged.add(trial.number)

    def try_to(self, study: Study, say: Callable[[str], None]) -> list[FrozenTrial]:
        """``log``, which may not end a sweep under way: what failed is logged later, by ``finish``
        at the latest. Returns the study's trials, as far as it could be read."""
        try:
            self._seen = study.get_trials(deepcopy=False)
            if time.monotonic() >= self._not_before:
                self.log(self._seen)
        except Exception as exc:  # any library's
            if not self._failed:
                say(f"the sweep goes on, and its trials come to MLflow later: {exc!r}")
            self._failed = True
            self._not_before = time.monotonic() + RETRY_SECONDS
        return self._seen

    def finish(self, trials: list[FrozenTrial]) -> str:
        """Log the rest, and the sweep's own figures; returns its run id.

        Raises:
            StateError: MLflow does not take them; the sweep itself is whole.
        """
        try:
            self.log(trials)
            self._close(trials)
        except Exception as exc:  # MLflow's, its store's, the network's
            raise StateError(
                f"sweep {self.sweep.name} is over and whole, but MLflow does not take its trials "
                f"({type(exc).__name__}: {exc}); see MLFLOW_TRACKING_URI, then run the same "
                "command again: it trains none of them again, logs what is missing, and goes on"
            ) from exc
        return self._parent

    def _close(self, trials: list[FrozenTrial]) -> None:
        best, spent = studies.best(trials), studies.spent(trials)
        with self.home.lock("mlflow"):
            mlflow = client(self.home)
            if best is not None and best.value is not None:
                mlflow.log_metric(self._parent, "validation_loss", best.value)
            for name, value in _costs(spent).items():
                mlflow.log_metric(self._parent, name, value)
            mlflow.set_terminated(self._parent, "FINISHED")

    def _known(self, mlflow: Any) -> tuple[str, set[int]]:
        """The sweep's run, made on first use, and the numbers of the trials that have one."""
        sweep, experiment = self.sweep, experiment_id(mlflow, self.home, self.sweep.use_case)
        parent, numbers, page = "", set(), None
        own = f"tags.`{SWEEP}` = '{sweep.name}' and tags.`{HOME}` = '{self.home.id}'"
        while True:
            found = mlflow.search_runs([experiment], own, page_token=page)
            for run in found:
                if TRIAL not in run.data.tags:
                    parent = run.info.run_id
                elif run.info.status == "FINISHED":
                    numbers.add(int(run.data.tags[TRIAL]))
            if not (page := found.token):
                break
        return parent or self._begin(mlflow, experiment), numbers

    def _begin(self, mlflow: Any, experiment: str) -> str:
        from mlflow.entities import Param

        name = f"{self.sweep.use_case}-sweep-{self.sweep.name[:8]}"
        tags = {SWEEP: self.sweep.name, HOME: self.home.id}
        run = mlflow.create_run(experiment, tags=tags, run_name=name)
        params = [Param(f"space.{field}", text) for field, text in self.sweep.space.items()]
        params.append(Param("training_set", self.sweep.training_set.digest))
        mlflow.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def _child(self, mlflow: Any, trial: FrozenTrial) -> None:
        """A trial's run: its config, its curve, how it ended. Killed in between it has no status
        FINISHED, and another run takes its place."""
        from mlflow.entities import Metric, Param, RunTag

        experiment = experiment_id(mlflow, self.home, self.sweep.use_case)
        name = f"{self.sweep.use_case}-trial-{trial.number}"
        tags = {
            SWEEP: self.sweep.name, HOME: self.home.id, TRIAL: str(trial.number),
            PARENT: self._parent,
        }  # fmt: skip
        run = mlflow.create_run(experiment, tags=tags, run_name=name).info.run_id
        now = int(time.time() * 1000)
        curve = trial.user_attrs.get(studies.CURVE, [])
        metrics = [
            Metric(metric, loss, now, epoch)
            for epoch, losses in enumerate(curve, start=1)
            for metric, loss in zip(LOSSES, losses, strict=True)
        ]
        spent = Spent(**trial.user_attrs.get(studies.SPENT, {}))
        metrics += [Metric(name, value, now, 0) for name, value in _costs(spent).items()]
        config = asdict(config_of(self.sweep.config, trial.params))
        params = [Param(field, json.dumps(value)) for field, value in config.items()]
        params.append(Param("training_set", self.sweep.training_set.digest))
        ended = "complete" if trial.state == TrialState.COMPLETE else "pruned"
        told = [
            RunTag("airworthy.ended", ended),
            RunTag("airworthy.why", trial.user_attrs.get(studies.WHY, "")),
        ]
        mlflow.log_batch(run, metrics=metrics, params=params, tags=told)
        mlflow.set_terminated(run, "FINISHED")


def _costs(spent: Spent) -> dict[str, float]:
    """By the names that every training's costs have."""
    return dict(zip(COST, (spent.seconds, spent.cpu, spent.gpu), strict=True))
