"""What a sweep's trials end as: what is tried again, what counts, what is never drawn twice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from optuna.trial import Trial, TrialState, create_trial
from sweep_helpers import CONFIG, check_exact, place, silent, study_of, sweep_over, taken, trials_of

from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_table
from tasks.pictures import new_figure
from tasks.sweep import conclude_sweep
from tasks.sweeps import report
from tasks.sweeps.declared import Budget
from tasks.sweeps.storage import open_store
from tasks.sweeps.study import MOST_TRIES, Turn, progress, take
from tasks.sweeps.trial import BudgetSpent, Reporter
from tasks.sweeps.worker import MOST_FAILED, work
from tasks.training.run import Epoch
from tasks.types import State, TrainingConfig

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a sweep."""
    return place(tmp_path)


def test_only_a_training_that_diverges_is_pruned(home: Home, small_weather: Table) -> None:
    """What else a training may not do is no answer about its parameters, and fails: here a part is
    empty. A worker survives that for a while, since another configuration may do."""
    rows = read_table(small_weather)
    kept = write_table(home, "training_set", rows.filter(pc.not_equal(rows["split"], "validation")))
    sweep = replace(sweep_over(small_weather, 2), training_set=kept)
    said: list[str] = []
    with pytest.raises(TrainingError, match=f"{MOST_FAILED} trials failed here one after another"):
        work(home, sweep, said.append)
    assert "validation" in said[0]
    trials = trials_of(home, sweep)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * MOST_FAILED
    tried = {tuple(trial.params.items()) for trial in trials}
    assert len(tried) == MOST_FAILED // MOST_TRIES


def test_a_network_that_no_memory_holds_is_given_up(home: Home, small_weather: Table) -> None:
    """The worker goes on with the others."""
    config = replace(CONFIG, width=16, epochs=1)
    space = {"width": "16 1000000000000 32"}
    sweep = sweep_over(small_weather, 3, config=config, space=space, prune=False)
    assert work(home, sweep, silent) == 2
    trials = trials_of(home, sweep)
    assert {t.params["width"] for t in trials if t.state == TrialState.COMPLETE} == {16, 32}
    assert [t.state for t in trials].count(TrialState.FAIL) == MOST_TRIES
    assert progress(trials) == (2, 1)


def test_trials_far_above_the_others_are_marked_at_the_edge() -> None:
    """They must not flatten the others, nor be left out without a word."""
    trials = [
        create_trial(state=state, value=value)
        for state, value in (
            (TrialState.COMPLETE, 0.40), (TrialState.PRUNED, 9.0), (TrialState.COMPLETE, 0.38),
            (TrialState.PRUNED, 0.41),
        )
    ]  # fmt: skip
    axes = new_figure(4, 3).add_subplot()
    report.draw_history(axes, trials)
    drawn = {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()
    }
    assert drawn["pruned"] == [0.41]
    assert drawn["complete"] == [0.40, 0.38]
    assert drawn["pruned, above what is drawn"] == [axes.get_ylim()[1]] != [9.0]


def test_a_sweep_in_which_all_diverge_says_why(home: Home, small_weather: Table) -> None:
    """Such trials count as pruned, so that it ends, and the next ones are drawn elsewhere."""
    wild = replace(CONFIG, learning_rate=1e30)
    space = {"learning_rate": "linear 1e29 1e31"}
    sweep = sweep_over(small_weather, 2, config=wild, space=space)
    work(home, sweep, silent)
    assert [t.state for t in trials_of(home, sweep)] == [TrialState.PRUNED] * 2
    with pytest.raises(TrainingError, match=r"no trial is complete.*went bad"):
        conclude_sweep(state=State(str(home.root), home.id), sweep=sweep, ended=2)


def test_a_spent_budget_ends_the_sweep_within_an_epoch(home: Home, small_weather: Table) -> None:
    """What was spent counts over restarts. With more to spend it goes on, first with the trial
    that was cut off."""
    budget = Budget(money=1e-9, gpu_second=1.0, cpu_second=1.0)
    sweep = sweep_over(small_weather, 3, budget=budget)
    said: list[str] = []
    assert work(home, sweep, said.append) == 0
    assert "cut off after 1 epoch:" in said[0]
    assert "budget is spent" in said[0]
    assert work(home, sweep, silent) == 0
    (cut,) = trials_of(home, sweep)
    told = report.summary(replace(sweep, budget=replace(budget, cpu_second=0.0)), [cut])
    assert re.search(r"cost 0.00.* 0 were lost .*the budget cut 1 off", told)
    assert "the budget is spent, 3 trials were asked for" in report.summary(sweep, [cut])
    assert work(home, replace(sweep, budget=Budget()), silent) == 3
    trials = trials_of(home, sweep)
    check_exact(trials, 3)
    assert (trials[1].state, trials[1].params) == (TrialState.COMPLETE, cut.params)
    assert "budget" not in report.summary(sweep, trials)
    assert " 0 were lost" in report.summary(sweep, trials)


def test_a_trial_is_over_by_its_own_patience(home: Home, small_weather: Table) -> None:
    """Where patience is searched: one that is over is neither cut off nor pruned."""
    space, budget = {"patience": "0 9"}, Budget(seconds=1e-9)
    sweep = sweep_over(small_weather, 2, space=space, budget=budget)
    with open_store(home, sweep.name).life() as worker:
        trials = [taken(home, sweep, worker) for _ in range(2)]
    assert [trial.params["patience"] for trial in trials] == [9, 0]
    going_on, over = (Reporter(trial.study, trial, sweep) for trial in trials)
    for reporter in (going_on, over):
        reporter.remember([(0.5, 0.5)])
    worse = Epoch(epoch=2, training_loss=0.6, validation_loss=0.6)
    over.epoch(worse)
    with pytest.raises(BudgetSpent):
        going_on.epoch(worse)


def test_choices_are_not_drawn_twice(home: Home) -> None:
    """All of a small space is tried, each configuration once, whatever the sampler likes; one that
    was given up is not drawn again."""
    space = {"width": "64 128 256", "layers": "linear 1 4"}
    sweep = sweep_over(Table("", "", "", "", 0), 12, config=TrainingConfig(), space=space)
    store, study = open_store(home, sweep.name), study_of(home, sweep)
    drawn = []
    with store.life() as worker:
        while isinstance(trial := take(home, store, study, sweep, worker), Trial):
            drawn.append(tuple(trial.params.items()))
            bad = trial.params == {"width": 64, "layers": 1}
            study.tell(trial, None if bad else 1.0, TrialState.FAIL if bad else None)
    assert trial is Turn.OVER
    assert len(set(drawn)) == 12
    assert len(drawn) == 11 + MOST_TRIES


def test_homes_that_share_a_database_share_no_sweep(
    postgres: str, monkeypatch: pytest.MonkeyPatch, home: Home, small_weather: Table
) -> None:
    """Taking a trial needs one lock, which is the home's."""
    monkeypatch.setenv("AIRWORTHY_SWEEP_STORAGE", postgres)
    sweep = sweep_over(small_weather, 1)
    taken(home, sweep, "here")
    assert len(trials_of(home, sweep)) == 1
    other = trials_of(place(home.root / "other"), sweep)
    assert [trial.state for trial in other] == [TrialState.WAITING]
