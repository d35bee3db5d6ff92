"""How a training is launched and its model promoted, checked before features are computed."""

from datetime import timedelta

from flytekit import FlyteContextManager, task

from feature_repo.errors import TrainingError
from tasks.resources import NODES, SMALL
from tasks.types import check_checkpoint_steps

LAUNCHERS = ("one-process", "two-ranks", "nodes")
AT_ONCE, IN_STEPS = "at-once", "in-steps"


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=5))
def check_launch(launcher: str, promotion: str, checkpoint_steps: int) -> bool:
    """Whether the training can be launched so, and the model be promoted so.

    Raises:
        TrainingError: an input is none of those that there are; names it and the way out.
    """
    _check_among("launcher", launcher, LAUNCHERS)
    check_promotion(promotion)
    check_checkpoint_steps(checkpoint_steps)
    state = FlyteContextManager.current_context().execution_state
    if launcher == "nodes" and NODES > 1 and state is not None and state.is_local_execution():
        raise TrainingError(
            f"launcher 'nodes' waits for {NODES} machines of a cluster, and this is one: take "
            "two-ranks here"
        )
    return True


def check_promotion(promotion: str) -> None:
    """The rule for ``promotion``, for whoever is started by itself too.

    Raises:
        TrainingError: it is neither ``at-once`` nor ``in-steps``.
    """
    _check_among("promotion", promotion, (AT_ONCE, IN_STEPS))


def _check_among(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TrainingError(f"{name} is {value!r}, but must be one of {', '.join(known)}")
