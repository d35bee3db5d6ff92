"""The search by processes, as a launch without flags runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_helpers import check_exact, place, sweep_over, trials_of

from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.sweep import conclude_sweep, search_here
from tasks.sweeps import declared
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
