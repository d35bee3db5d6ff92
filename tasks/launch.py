"""How a training is launched and its model promoted, checked before features are computed."""

from datetime import timedelta

from flytekit import FlyteContextManager, task

from feature_repo.errors import TrainingError
from tasks.promotion import AT_ONCE, IN_STEPS
from tasks.resources import NODES, SMALL

LAUNCHERS = ("one-process", "two-ranks", "nodes")


@task(requests=SMALL, retries=1, timeout=timedelta(minutes=5))
def check_launch(launcher: str, promotion: str, checkpoint_steps: int) -> bool:
    """Whether the training can be launched so, and the model be promoted so.

    Raises:
        TrainingError: an input is none of those that there are; names it and the way out.
    """
    for name, value, known in (
        ("launcher", launcher, LAUNCHERS),
        ("promotion", promotion, (AT_ONCE, IN_STEPS)),
    ):
        if value not in known:
            raise TrainingError(f"{name} is {value!r}, but must be one of {', '.join(known)}")
    if checkpoint_steps < 0:
        raise TrainingError(
            f"checkpoint_steps is {checkpoint_steps}, but must be 0 (none) or more; mend it"
        )
    state = FlyteContextManager.current_context().execution_state
    if launcher == "nodes" and NODES > 1 and state is not None and state.is_local_execution():
        raise TrainingError(
            f"launcher 'nodes' waits for {NODES} machines of a cluster, and this is one: take "
            "two-ranks here"
        )
    return True
