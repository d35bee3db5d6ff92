"""How much a server takes: a load test, and the deployment's settings that follow from it."""

from flytekit import workflow

from tasks.load_test import Sized, load_test
from tasks.state import open_state


@workflow
def size(
    model: str, usual_rate: float, peak_rate: float, patience: float = 0.25, seconds: float = 3.0
) -> Sized:
    """Load the champion's server on this machine until more load buys only waiting, and write
    concurrency, CPU and replicas into its manifest. Run it where a pod would run: wrk is beside it.

    Args:
        model: a use case, for example flights.
        usual_rate: requests a second, on an ordinary day, all replicas together.
        peak_rate: the most that is expected.
        patience: seconds that a caller waits at most; who would wait longer is answered 503.
        seconds: of each step.
    """
    opened = open_state(use_case=model)
    return load_test(
        state=opened.state, use_case=model, usual_rate=usual_rate, peak_rate=peak_rate,
        patience=patience, seconds=seconds,
    )  # fmt: skip
