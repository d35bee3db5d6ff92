"""The search by processes, as a launch without flags runs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_helpers import check_exact, place, sweep_over, trials_of

from feature_repo.errors import StateError, TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.sweep import conclude_sweep, search_here
from tasks.sweeps import declared, processes
from tasks.sweeps.processes import MOST_GIVEN_UP, STARTS
from tasks.sweeps.study import Progress
from tasks.types import State

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a sweep."""
    return place(tmp_path)


def test_an_mlflow_that_is_away_ends_no_search(
    home: Home, small_weather: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trials are trained; the end says that only MLflow is missing, and the sweep stays open
    for the same command."""
    sweep = sweep_over(small_weather, 2)
    steps = {"state": State(str(home.root), home.id), "sweep": sweep}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert search_here(**steps, workers=1) == 2
    check_exact(trials_of(home, sweep), 2)
    with pytest.raises(StateError, match=r"is over and whole, but MLflow .* same command again"):
        conclude_sweep(**steps, ended=2)
    assert (declared.place(home, sweep.name) / "sweep.json").exists()


@pytest.mark.parametrize(
    ("progress", "again"),
    [
        (lambda lives: Progress(), STARTS - 1),
        (lambda lives: Progress(ended=min(lives, 2)), STARTS),  # the first two ended a trial each
        (lambda lives: Progress(given_up=lives), MOST_GIVEN_UP - 1),
    ],
)
def test_workers_are_started_again_and_given_up_in_the_end(
    progress: Callable[[int], Progress],
    again: int,
    home: Home,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that cannot even read its sweep. Deaths between which the sweep went on, or gave up
    what killed, begin anew, up to a limit."""
    monkeypatch.setattr(processes, "PAUSE_SECONDS", 0.1)
    said: list[str] = []
    path = declared.place(home, "gone") / "sweep.json"
    looks: Counter[int] = Counter()

    def look() -> Progress:
        """What a worker does, it does after its start."""
        looks[len(said)] += 1
        return progress(len(said) + (looks[len(said)] > 1))

    with pytest.raises(TrainingError, match=r"each of the 1 workers died again and again"):
        processes.run_workers(path, 1, said.append, look)
    assert sum("started again" in line for line in said) == again
    assert len(said) == again + 1
    assert "run the sweep's command again" in capfd.readouterr().err
