"""A launch that cannot work is refused before features are computed."""

from __future__ import annotations

import pytest

from feature_repo.errors import TrainingError
from tasks.launch import check_launch

LAUNCH: dict[str, object] = {
    "launcher": "two-ranks", "promotion": "in-steps", "checkpoint_steps": 50,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"launcher": "three-ranks"}, "'three-ranks', but must be one of one-process, two-ranks"),
        ({"promotion": "never"}, "promotion is 'never', but must be one of at-once, in-steps"),
        ({"checkpoint_steps": -5}, "checkpoint_steps is -5, but must be 0"),
        ({"launcher": "nodes"}, "waits for 2 machines of a cluster, .*: take two-ranks here"),
    ],
)
def test_what_cannot_be_launched_is_refused(changed: dict[str, object], said: str) -> None:
    """With the input, the rule and the way out."""
    assert check_launch(**LAUNCH)
    with pytest.raises(TrainingError, match=said):
        check_launch(**(LAUNCH | changed))
