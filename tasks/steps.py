"""Progress on the terminal, and the record of it that travels with a task's outputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from tasks.types import Step


class StepLog:
    """Says when a step begins, what it does as it does it, and how long it took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began = time.perf_counter()
        self._messages: list[str] = []
        self._seconds = 0.0

    def say(self, message: str) -> None:
        """Print one line of progress and keep it for the record."""
        self._messages.append(message)
        print(f"[{self.name}] {message}", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Stop the clock and print the seconds that the step took."""
        self._seconds = time.perf_counter() - self._began
        print(f"[{self.name}] done in {self._seconds:.1f} s", file=sys.stderr, flush=True)

    @property
    def record(self) -> Step:
        """The step as an output of its task."""
        finished = datetime.now(timezone.utc).isoformat()
        return Step(self.name, round(self._seconds, 3), finished, "\n".join(self._messages))


@contextmanager
def step(name: str) -> Iterator[StepLog]:
    """Time a step; a step that raises prints nothing more."""
    log = StepLog(name)
    print(f"[{name}] started", file=sys.stderr, flush=True)
    yield log
    log.finish()
