"""Training runs side by side: what differs, and whether it makes a difference."""

from flytekit import workflow

from tasks.experiments import compare_runs


@workflow
def compare(runs: list[str]) -> str:
    """Compare 2 to 12 runs of a use case with the first of them; returns the report's file.

    Args:
        runs: each by MLflow's run id, by the version (``1.0.0``, or ``flights:1.0.0`` where
            several use cases have one) or the certificate of its model, or by an execution's id.
    """
    return compare_runs(runs=runs).report
