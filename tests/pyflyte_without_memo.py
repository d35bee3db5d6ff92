"""``pyflyte``, but what a task validated in this process is validated again by the next task.

flytekit's Pandera plugin remembers, and so hides what a cluster, where each task is a process of
its own, would show.
"""

from __future__ import annotations

import sys


class NoMemo(set[object]):
    """A set that stays empty."""

    def add(self, element: object, /) -> None:
        """Forget at once."""


def forget(transformer: type) -> None:
    """Let the plugin's transformer remember nothing."""
    transformer._VALIDATION_MEMO = NoMemo()  # type: ignore[attr-defined]


if __name__ == "__main__":  # a training's workers import this file too
    from flytekit.clis.sdk_in_container.pyflyte import main
    from flytekitplugins.pandera.pandas_transformer import PanderaPandasTransformer

    forget(PanderaPandasTransformer)
    sys.exit(main())
