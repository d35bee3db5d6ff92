"""Sweeps over a small part of the weather, with workers that are processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_table
from tasks.splits import split_by_time
from tasks.sweeps import declared
from tasks.sweeps.declared import Budget, Sweep
from tasks.sweeps.storage import WORKER, open_store
from tasks.sweeps.study import FINISHED, open_study, take
from tasks.types import TrainingConfig

CONFIG = TrainingConfig(epochs=9, batch_size=128, width=32, dropout=0.0, patience=9, seed=1)
SPACE = {"learning_rate": "log 1e-4 3e-2", "weight_decay": "log 1e-4 1", "dropout": "linear 0 0.5"}


def small(table: Table, home: Home, every: int = 8) -> Table:
    """Every eighth row of a training set, split as the pipeline does."""
    dates = [datetime(2013, month, 1, tzinfo=timezone.utc) for month in (1, 10, 11)]
    rows = read_table(table)
    kept = rows.take(np.arange(0, rows.num_rows, every))
    ends = (*dates, datetime(2014, 1, 1, tzinfo=timezone.utc))
    return write_table(home, "training_set", split_by_time(ends, Counter(), kept))


def sweep_over(table: Table, trials: int, **changed: object) -> Sweep:
    """A sweep with the small config and space; ``changed`` fields of it are others."""
    sweep = Sweep("", "weather", table, CONFIG, SPACE, "test", trials, Budget())
    sweep = replace(sweep, **changed)  # type: ignore[arg-type]  # fields of Sweep
    named = declared.name_of("weather", table.digest, sweep.config, sweep.space, sweep.code)
    return sweep if sweep.name else replace(sweep, name=named)


def study_of(home: Home, sweep: Sweep) -> Study:
    """The sweep's study, as whoever asks next sees it."""
    return open_study(open_store(home, sweep.name), sweep)


def trials_of(home: Home, sweep: Sweep) -> list[FrozenTrial]:
    """All of the sweep's trials."""
    return study_of(home, sweep).get_trials(deepcopy=False)


def taken(home: Home, sweep: Sweep, worker: str) -> Trial:
    """A trial for a worker of this name."""
    store = open_store(home, sweep.name)
    trial = take(home, store, study_of(home, sweep), sweep, worker)
    assert isinstance(trial, Trial)
    return trial


def silent(message: str) -> None:
    """Progress that nobody reads."""


def start(home: Home, sweep: Sweep) -> subprocess.Popen[bytes]:
    """A worker as a process."""
    path = declared.write(home, sweep)
    worker = subprocess.Popen(
        [sys.executable, "-m", "tasks.sweeps.worker", str(path), "0"], stdin=subprocess.PIPE
    )
    one_core(worker.pid)
    return worker


def one_core(process: int) -> None:
    """Threads that wait for each other make a small training on a busy machine forty times slower:
    give it the last core, and it has one."""
    os.sched_setaffinity(process, {max(os.sched_getaffinity(0))})


def within_a_trial(home: Home, sweep: Sweep, after: int = 1) -> FrozenTrial:
    """Wait until ``after`` trials are finished and one has an epoch behind it; that one. Its
    attribute ``worker`` names the process."""
    end = time.monotonic() + 120
    study = study_of(home, sweep)
    while time.monotonic() < end:
        trials = study.get_trials(deepcopy=False)
        under_way = [t for t in trials if t.state == TrialState.RUNNING and t.intermediate_values]
        if sum(t.state in FINISHED for t in trials) >= after and under_way:
            return under_way[0]
        time.sleep(0.005)
    raise AssertionError("no trial came so far")


def kill_worker_of(trial: FrozenTrial, workers: list[subprocess.Popen[bytes]]) -> None:
    """kill -9 of whoever trains it."""
    (worker,) = (w for w in workers if f"-{w.pid}-" in trial.user_attrs[WORKER])
    worker.kill()
    assert worker.wait(30) == -signal.SIGKILL
    workers.remove(worker)


def check_exact(trials: list[FrozenTrial], wanted: int) -> None:
    """Exactly so many ended, none of them twice, and nothing is under way or waits."""
    finished = [trial for trial in trials if trial.state in FINISHED]
    assert len(finished) == wanted
    assert len({tuple(sorted(trial.params.items())) for trial in finished}) == wanted
    states = Counter(trial.state for trial in trials)
    assert not states[TrialState.RUNNING]
    assert not states[TrialState.WAITING]
    ended = {tuple(sorted(trial.params.items())) for trial in finished}
    # One that was lost before it had all its parameters was never begun.
    lost = [t for t in trials if t.state == TrialState.FAIL and len(t.params) == len(SPACE)]
    assert {tuple(sorted(trial.params.items())) for trial in lost} <= ended


def place(path: Path) -> Home:
    """A home at a path."""
    return Home(root=path)
