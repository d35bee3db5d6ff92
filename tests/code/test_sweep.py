"""Sweeps: workers that die lose nothing, budgets end, equal trainings happen once."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from optuna.trial import TrialState
from sweep_helpers import (
    CONFIG,
    check_exact,
    place,
    silent,
    start,
    study_of,
    sweep_over,
    taken,
    trials_of,
    within_a_trial,
)

from feature_repo.errors import StateError
from feature_repo.home import Home, tracking_uri
from feature_repo.tables import Table, read_table, write_table
from tasks.housekeeping import needed_digests
from tasks.sweep import conclude_sweep, plan_sweep, search_on_pods
from tasks.sweeps import declared
from tasks.sweeps import study as studies
from tasks.sweeps.declared import Budget, Sweep
from tasks.sweeps.space import read_space
from tasks.sweeps.storage import open_store
from tasks.sweeps.study import FINISHED, Turn, settle, take
from tasks.sweeps.tracking import PARENT, SWEEP, TRIAL, Tracker
from tasks.sweeps.trial import train
from tasks.sweeps.worker import work
from tasks.tracking import client
from tasks.types import State

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a sweep."""
    return place(tmp_path)


@pytest.fixture(scope="module")
def table(small_weather: Table) -> Table:
    """An eighth of the weather."""
    return small_weather


def test_what_the_dead_left_waits_once_however_often_it_is_settled(
    stored: str, home: Home, table: Table
) -> None:
    """A worker that died before it owned its trial, and one that died between the failure of a
    dead one's trial and its return."""
    sweep = sweep_over(table, 5, name=f"settled-{stored}")
    store, study = open_store(home, sweep.name), study_of(home, sweep)
    space = read_space(sweep.space, sweep.config)
    ownerless = study.ask(space)  # the base config, popped from those that wait
    assert ownerless.number == 0
    for _ in range(3):
        settle(store, study, sweep)
    trials = study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.WAITING]
    assert trials[1].system_attrs["fixed_params"] == trials[0].params
    again = study.ask(space)
    study.tell(again, state=TrialState.FAIL)  # and died before it could have it wait again
    settle(store, study, sweep)
    settle(store, study, sweep)
    trials = study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials[1:]] == [TrialState.FAIL, TrialState.WAITING]
    study.tell(study.ask(space), state=TrialState.FAIL)
    settle(store, study, sweep)  # a third time: this configuration kills
    assert len(study.get_trials(deepcopy=False)) == 3


def test_a_trial_that_was_taken_for_dead_is_not_counted_twice(
    stored: str, home: Home, table: Table
) -> None:
    """A worker that was only slow finds its trial failed, and leaves it to its successor."""
    sweep = sweep_over(table, 1, name=f"slow-{stored}")
    slow = taken(home, sweep, "slow")
    store, study = open_store(home, sweep.name), study_of(home, sweep)
    study.tell(slow.number, state=TrialState.FAIL)
    other = taken(home, sweep, "other")
    assert "taken for dead" in train(home, slow.study, slow, sweep).said
    assert "complete" in train(home, other.study, other, sweep).said
    trials = study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert take(home, store, study, sweep, "other") is Turn.OVER


def test_the_last_trial_is_one_worker_s_alone(stored: str, home: Home, table: Table) -> None:
    """Others wait for it, since its worker may die."""
    sweep = sweep_over(table, 1, name=f"last-{stored}")
    store = open_store(home, sweep.name)
    with store.life() as worker:
        trial = taken(home, sweep, worker)
        other = open_store(home, sweep.name)
        with store.beats(trial._trial_id):
            assert take(home, other, study_of(home, sweep), sweep, "other") is Turn.WAIT
            train(home, trial.study, trial, sweep)
    assert take(home, other, study_of(home, sweep), sweep, "other") is Turn.OVER


def test_a_heartbeat_that_stops_is_seen(
    postgres: str, monkeypatch: pytest.MonkeyPatch, home: Home, table: Table
) -> None:
    """With PostgreSQL there is no lock to look at: the grace decides."""
    monkeypatch.setenv("AIRWORTHY_SWEEP_STORAGE", postgres)
    monkeypatch.setattr("tasks.sweeps.storage.GRACE_SECONDS", 1)
    sweep = sweep_over(table, 1, name="beats")
    dead = taken(home, sweep, "dead")
    assert take(home, open_store(home, sweep.name), dead.study, sweep, "other") is Turn.WAIT
    time.sleep(1.2)
    again = taken(home, sweep, "other")
    assert again.params == dead.params
    assert again.number == dead.number + 1


def test_a_database_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    """With the variable, and the form of a URL."""
    monkeypatch.setenv("AIRWORTHY_SWEEP_STORAGE", "postgresql+psycopg://nobody@/x?host=/nowhere")
    with pytest.raises(StateError, match=r"AIRWORTHY_SWEEP_STORAGE cannot be used .*postgresql\+"):
        open_store(home, "any")


def test_a_line_cut_short_harms_no_journal(home: Home, table: Table) -> None:
    """Neither who reads next nor who writes next."""
    sweep = sweep_over(table, 2)
    study_of(home, sweep).set_user_attr("told", 1)
    path = declared.place(home, sweep.name) / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 2, "worker_id')
    assert study_of(home, sweep).user_attrs == {"told": 1}
    study_of(home, sweep).set_user_attr("told", 2)
    assert study_of(home, sweep).user_attrs == {"told": 2}
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_equal_parameters_are_not_trained_twice(home: Home, table: Table) -> None:
    """Another sweep over the same data and code takes the value from the earlier training."""
    sweep = sweep_over(table, 3, prune=False)
    assert work(home, sweep, silent) == 3
    again = replace(sweep, name="again", trials=1)  # its first trial is the base config too
    said: list[str] = []
    work(home, again, said.append)
    (trial,) = trials_of(home, again)
    first = trials_of(home, sweep)[0]
    assert (trial.value, trial.params) == (first.value, first.params)
    assert trial.user_attrs[studies.CURVE] == first.user_attrs[studies.CURVE]
    assert studies.epochs([trial]) == 0
    assert studies.epochs([first]) == CONFIG.epochs
    assert "remembered" in said[0]
    other = replace(again, name="other", code="changed")
    work(home, other, silent)
    assert studies.epochs(trials_of(home, other)) == CONFIG.epochs


def test_one_worker_draws_alike_again_and_pruning_saves(home: Home, table: Table) -> None:
    """The same sweep in another home has the same trials; the value is the best of the curve."""
    sweep = sweep_over(table, 6)
    other = place(home.root / "other")
    for each in (home, other):
        work(each, sweep, silent)
    first, second = trials_of(home, sweep), trials_of(other, sweep)
    assert [(t.params, t.value, t.state) for t in first] == [
        (t.params, t.value, t.state) for t in second
    ]
    check_exact(first, 6)
    assert studies.epochs(first) < 6 * CONFIG.epochs
    best = studies.best(first)
    assert best is not None
    assert best.value == min(losses[1] for losses in best.user_attrs[studies.CURVE])


def test_no_trial_sees_the_test_part(home: Home, table: Table) -> None:
    """Without its rows the same values come out."""
    sweep = sweep_over(table, 2, prune=False)
    rows = read_table(table)
    blind = write_table(home, "training_set", rows.filter(pc.not_equal(rows["split"], "test")))
    assert blind.rows < table.rows
    unseeing = replace(sweep, training_set=blind)
    work(home, sweep, silent)
    work(place(home.root / "blind"), unseeing, silent)
    values = [t.value for t in trials_of(home, sweep)]
    assert values == [t.value for t in trials_of(place(home.root / "blind"), unseeing)]


def test_a_worker_ends_with_its_launcher(home: Home, table: Table) -> None:
    """Its input is a pipe of the launcher's; nobody trains for nobody."""
    sweep = sweep_over(table, 50)
    worker = start(home, sweep)
    within_a_trial(home, sweep)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(30) == -signal.SIGKILL


def test_a_sweep_on_pods_is_concluded(
    home: Home, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker a task of its own, which here run one after another; then the report, a run for
    each trial, and the winner's config. Planned again, it is the same sweep, and is over. Another
    home that shares the MLflow has runs of its own."""
    state = State(str(home.root), home.id)
    planned = {
        "state": state, "use_case": "weather", "declaration": "any", "training_set": table,
        "config": CONFIG, "space": {"learning_rate": "log 1e-3 3e-2", "width": "16 32"},
        "trials": 5, "budget": Budget(),
    }  # fmt: skip
    sweep = plan_sweep(**planned)
    assert search_on_pods(state=state, sweep=sweep, workers=2) == 5
    assert table.digest in needed_digests(home)  # a clean-up leaves it while the sweep is not over
    swept = conclude_sweep(state=state, sweep=sweep, ended=5)
    trials = trials_of(home, sweep)
    best = studies.best(trials)
    assert best is not None
    assert swept.config == replace(CONFIG, **best.params)
    assert f"best validation loss {best.value:.5f}" in swept.step.message
    page = Path(swept.report).read_text()
    complete = {trial.value for trial in trials if trial.state == TrialState.COMPLETE}
    assert page.count("data:image/png") == 2 + (len(complete) > 2)  # too few say nothing of weights
    check_runs(home, sweep)
    assert plan_sweep(**planned).name == sweep.name
    assert plan_sweep(**(planned | {"declaration": "other"})).name != sweep.name
    assert search_on_pods(state=state, sweep=sweep, workers=2) == 0
    conclude_sweep(state=state, sweep=sweep, ended=0)
    parent = check_runs(home, sweep)
    assert table.digest not in needed_digests(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(home))
    assert Tracker(place(home.root / "other"), sweep).finish(trials) != parent


def check_runs(home: Home, sweep: Sweep) -> str:
    """A run of the sweep's own, and a child for each trial, with its curve and its config; the
    former's id."""
    mlflow = client(home)
    (experiment,) = mlflow.search_experiments(filter_string="name = 'weather'")
    runs = mlflow.search_runs([experiment.experiment_id], f"tags.`{SWEEP}` = '{sweep.name}'")
    (parent,) = (run for run in runs if TRIAL not in run.data.tags)
    children = {int(r.data.tags[TRIAL]): r for r in runs if TRIAL in r.data.tags}
    trials = [trial for trial in trials_of(home, sweep) if trial.state in FINISHED]
    assert len(runs) == len(trials) + 1
    for trial in trials:
        run = children[trial.number]
        assert run.data.tags[PARENT] == parent.info.run_id
        assert json.loads(run.data.params["width"]) == trial.params["width"]
        assert run.data.params["training_set"] == sweep.training_set.digest
        curve = mlflow.get_metric_history(run.info.run_id, "validation_loss")
        assert [m.value for m in curve] == [v for _, v in trial.user_attrs[studies.CURVE]]
        assert run.info.status == "FINISHED"
    best = studies.best(trials)
    assert best is not None
    assert parent.data.metrics["validation_loss"] == best.value
    return str(parent.info.run_id)
