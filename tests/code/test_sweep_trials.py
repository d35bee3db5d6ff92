"""What a sweep's trials end as: what is tried again, what counts, what is never drawn twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from optuna.trial import TrialState
from sweep_helpers import place, sweep_over, taken, trials_of

from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_table
from tasks.sweeps.trial import train

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a sweep."""
    return place(tmp_path)


def test_only_a_training_that_diverges_is_pruned(home: Home, small_weather: Table) -> None:
    """What else a training may not do is no answer about its parameters: here a part is empty."""
    rows = read_table(small_weather)
    kept = write_table(home, "training_set", rows.filter(pc.not_equal(rows["split"], "validation")))
    sweep = replace(sweep_over(small_weather, 2), training_set=kept)
    trial = taken(home, sweep, "any")
    with pytest.raises(TrainingError, match="validation"):
        train(home, trial.study, trial, sweep)
    assert [trial.state for trial in trials_of(home, sweep)] == [TrialState.FAIL]
