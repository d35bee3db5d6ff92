"""kill -9 within sweeps: of a worker, and of a whole ``pyflyte run`` that is run again.

``AIRWORTHY_LONG_DRILLS=1`` (``make drills``) makes it 40 trials, and holds a sweep that prunes
against one that does not. Run with ``-s`` to see the figures.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState
from pipeline import SHORT, Place, Twins, check_sound, kill_group, told
from sweep_helpers import (
    check_exact,
    kill_worker_of,
    silent,
    small,
    start,
    sweep_over,
    trials_of,
    within_a_trial,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from serving.artifact import MODEL_JSON
from tasks.fit import fit
from tasks.sweeps import declared, report
from tasks.sweeps import study as studies
from tasks.sweeps.declared import Budget, Sweep
from tasks.sweeps.space import config_of
from tasks.sweeps.storage import GRACE_SECONDS
from tasks.sweeps.study import AGAIN_OF, FINISHED
from tasks.sweeps.worker import work
from tasks.types import TrainingConfig
from workflows.flights import SPACES

LONG = bool(os.environ.get("AIRWORTHY_LONG_DRILLS"))
TRIALS = 40 if LONG else 7

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.timeout(1200)
def test_a_worker_killed_within_a_trial_loses_nothing(
    stored: str, tmp_path: Path, small_weather: Table
) -> None:
    """Two workers, one killed within a trial and started again: what it left is trained by
    another, exactly as many trials end as were asked for, and nothing is left under way."""
    home, sweep = Home(root=tmp_path), sweep_over(small_weather, TRIALS, name=f"killed-{stored}")
    workers = [start(home, sweep), start(home, sweep)]
    hit = within_a_trial(home, sweep)
    kill_worker_of(hit, workers)
    killed = datetime.now()  # noqa: DTZ005 -- as Optuna's are
    workers.append(start(home, sweep))
    assert [worker.wait(900) for worker in workers] == [0, 0]
    trials = trials_of(home, sweep)
    print(report.summary(sweep, trials))
    check_exact(trials, TRIALS)
    (again,) = (t for t in trials if t.user_attrs.get(AGAIN_OF) == hit.number)
    assert trials[hit.number].state == TrialState.FAIL
    assert again.state in FINISHED
    if stored == "journal":  # no grace to wait for: a dead worker's lock is free
        found = trials[hit.number].datetime_complete
        assert found is not None
        assert (found - killed).total_seconds() < GRACE_SECONDS


@pytest.mark.skipif(not LONG, reason="a long drill: AIRWORTHY_LONG_DRILLS=1")
@pytest.mark.timeout(1200)
def test_a_sweep_killed_whole_goes_on_and_its_winner_is_judged(twins: Twins) -> None:
    """``pyflyte run``, killed with its workers at the end of a trial, then the same command: the
    trials that ended are not trained again, and the winner is trained, judged and certified."""
    place = twins.place
    flags = (
        "--config", json.dumps(SHORT), "--trials", "3", "--workers", "2",
        "--space", json.dumps({"learning_rate": "log 1e-3 4e-3", "dropout": "linear 0 0.1"}),
    )  # fmt: skip
    process = place.start("weather:sweep", *flags)
    assert process.stdout is not None
    said = next(line for line in process.stdout if line.startswith("[sweep] trial "))
    kill_group(process)
    done = place.run("weather:sweep", *flags)
    assert done.code == 0, done.said
    assert said not in done.said
    check_sound(place.home)
    check_winner(place)


def check_winner(place: Place) -> None:
    """The newest model has the config of the best trial, whose sweep lost none."""
    (journal,) = place.root.glob("sweeps/*/journal.jsonl")
    sweep = replace(sweep_over(Table("", "", "", "", 0), 3), name=journal.parent.name)
    space = {"learning_rate": "log 1e-3 4e-3", "dropout": "linear 0 0.1"}
    trials = trials_of(place.home, replace(sweep, space=space))
    check_exact(trials, 3)
    best = studies.best(trials)
    assert best is not None
    model = json.loads((Path(place.summary["model"]["path"]) / MODEL_JSON).read_text())
    assert model["config"] | SHORT | best.params == model["config"]
    assert not (declared.place(place.home, sweep.name) / "sweep.json").exists()
    assert (place.root / "reports" / "sweep-weather.html").exists()
    # Passed or refused, like any candidate; the base config may have won, which has flown before.
    version = place.summary["model"]["version"]
    certificates = [entry["facts"] for entry in told(place.home, "certificate")]
    (judged,) = (facts for facts in certificates if facts["version"] == version)
    assert judged["passed"] == place.summary["gate"]["passed"]


if LONG:

    @pytest.mark.timeout(3600)
    def test_pruning_finds_as_good_a_value_for_half_the_epochs(
        tmp_path: Path, flights_training_set: Table
    ) -> None:
        """40 trials of twelve epochs, as TabM's, on a twelfth of the flights, with and without.
        Another seed alone moves the validation loss of the same config by .0013 there (standard
        deviation)."""
        table = small(flights_training_set, Home(root=tmp_path / "table"), every=12)
        shares, worse = [], []
        for seed in (1, 2):
            config = TrainingConfig(epochs=12, batch_size=512, patience=12, seed=seed)
            spent, value = {}, {}
            for prune in (True, False):
                sweep = Sweep(
                    f"{seed}-{prune}", "flights", table, config, SPACES["mlp"], f"{prune}", 40,
                    Budget(), prune,
                )  # fmt: skip
                work(Home(root=tmp_path), sweep, lambda message: None)
                trials = trials_of(Home(root=tmp_path), sweep)
                check_exact(trials, 40)
                spent[prune], value[prune] = studies.epochs(trials), trained_again(sweep, trials)
                print(report.summary(sweep, trials), f"; again {value[prune]:.5f}", sep="")
            shares.append(spent[True] / spent[False])
            worse.append(value[True] - value[False])
        print(
            f"share of epochs {statistics.mean(shares):.3f}, worse by {statistics.mean(worse):.5f}"
        )
        assert statistics.mean(shares) <= 0.5
        assert statistics.mean(worse) <= 0.0013


def trained_again(sweep: Sweep, trials: list[FrozenTrial]) -> float:
    """The best config's mean validation loss with three other seeds: the least of many values is a
    lucky one, the luckier the more trials were whole."""
    best = studies.best(trials)
    assert best is not None
    config = config_of(sweep.config, best.params)
    use_case = get_use_case(sweep.use_case)
    fits = [
        fit(use_case, sweep.training_set, replace(config, seed=seed), silent)
        for seed in (11, 12, 13)
    ]
    return statistics.mean(min(epoch.validation_loss for epoch in f.curve) for f in fits)
