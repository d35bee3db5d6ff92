"""kill -9 within sweeps: of a worker, and of a whole ``pyflyte run`` that is run again.

``AIRWORTHY_LONG_DRILLS=1`` (``make drills``) makes it 40 trials, and holds a sweep that prunes
against one that does not. Run with ``-s`` to see the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from pipeline import SHORT, Place, Twins, check_sound, kill_group, told
from sweep_helpers import (
    CONFIG,
    check_exact,
    kill_worker_of,
    start,
    study_of,
    sweep_over,
    trials_of,
    within_a_trial,
)

from feature_repo.home import Home
from feature_repo.tables import Table
from serving.artifact import MODEL_JSON
from tasks.sweeps import declared, report
from tasks.sweeps import study as studies
from tasks.sweeps.storage import GRACE_SECONDS
from tasks.sweeps.study import AGAIN_OF, FINISHED
from tasks.sweeps.worker import work

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
    killed = time.monotonic()
    workers.append(start(home, sweep))
    assert [worker.wait(900) for worker in workers] == [0, 0]
    trials = trials_of(home, sweep)
    print(report.summary(sweep, trials))
    check_exact(trials, TRIALS)
    (again,) = (t for t in trials if t.user_attrs.get(AGAIN_OF) == hit.number)
    assert trials[hit.number].state == TrialState.FAIL
    assert again.state in FINISHED
    if stored == "journal" and not LONG:  # no grace to wait for: a dead worker's lock is free
        assert time.monotonic() - killed < GRACE_SECONDS + 60


@pytest.mark.timeout(1200)
def test_a_sweep_killed_whole_goes_on_and_its_winner_flies(twins: Twins) -> None:
    """``pyflyte run``, killed with its workers at the end of a trial, then the same command: the
    trials that ended are not trained again, and the winner is certified and released."""
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
    assert place.summary["gate"]["passed"]
    assert told(place.home, "certificate")[-1]["facts"]["passed"]


if LONG:

    @pytest.mark.timeout(3600)
    def test_pruning_finds_as_good_a_value_for_half_the_epochs(
        tmp_path: Path, small_weather: Table
    ) -> None:
        """40 trials with and without, on five seeds."""
        shares, values = [], []
        for seed in range(1, 6):
            home = Home(root=tmp_path / str(seed))
            config = replace(CONFIG, seed=seed)
            spent, best = [], []
            for prune in (True, False):
                sweep = sweep_over(
                    small_weather, 40, config=config, prune=prune, name=f"{prune}", code=f"{prune}"
                )
                work(home, sweep, lambda message: None)
                trials = trials_of(home, sweep)
                found = studies.best(trials)
                assert found is not None
                assert found.value is not None
                spent.append(studies.epochs(trials))
                best.append(found.value)
            importance = report.importances(study_of(home, sweep))
            print(f"seed {seed}: epochs {spent}, best {best}, importance {importance}")
            assert max(importance, key=lambda name: importance[name]) == "learning_rate"
            shares.append(spent[0] / spent[1])
            values.append(best[0] / best[1])
        print(f"share of epochs {statistics.mean(shares):.3f}, best {statistics.mean(values):.3f}")
        assert statistics.mean(shares) <= 0.5
