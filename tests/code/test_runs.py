"""MLflow runs: one for each training, and every execution that used it can be found on it."""

from __future__ import annotations

from pathlib import Path

from judging_helpers import fresh_home

from tasks.tracking import client, run_of, tag_execution
from tasks.types import Folder


def test_executions_that_share_a_training_are_found_on_its_one_run(tmp_path: Path) -> None:
    """Flyte's and local ids; a rerun adds nothing, another training is another run."""
    home = fresh_home(tmp_path / "home")
    trained, other = Folder("trained", "", "a" * 64), Folder("trained", "", "b" * 64)
    mlflow = client(home)
    executions = (
        "flights:production:f1a2",
        "local-20131101T030000-abcdef",
        "flights:production:f1a2",
    )
    for execution in executions:
        tag_execution(mlflow, run_of(mlflow, home, "toy", trained), execution)
    tag_execution(mlflow, run_of(mlflow, home, "toy", other), "local-20131108T030000-123456")
    experiment = mlflow.get_experiment_by_name("toy").experiment_id
    assert len(mlflow.search_runs([experiment])) == 2
    for execution in executions:
        (found,) = mlflow.search_runs(
            [experiment], f"tags.`airworthy.execution.{execution}` LIKE '20%'"
        )
        assert found.data.tags["airworthy.trained"] == trained.digest
