"""Progress on the terminal, and the record of it that travels with a task's outputs."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from tasks.types import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What something took: seconds by the clock, CPU seconds, and seconds that GPUs were held."""

    seconds: float
    cpu_seconds: float
    gpu_seconds: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            gpu_seconds=self.gpu_seconds + other.gpu_seconds,
        )


NO_COST = Cost(seconds=0.0, cpu_seconds=0.0, gpu_seconds=0.0)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended, user and system."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class StepLog:
    """Says when a step begins, what it does as it does it, and how long it took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._began = time.perf_counter()
        self._cpu = cpu_seconds()
        self._messages: list[str] = []
        self._seconds = 0.0
        self._cost: Cost | None = None
        self._before = 0.0

    def say(self, message: str) -> None:
        """Print one line of progress and keep it for the record."""
        self._messages.append(message)
        print(f"[{self.name}] {message}", file=sys.stderr, flush=True)

    def took(self, cost: Cost, before: float = 0.0) -> None:
        """What the step took in all its processes, where that is more than this one; ``before``:
        seconds of those that were killed."""
        self._cost, self._before = cost, before

    def finish(self) -> None:
        """Stop the clock and print the seconds that the step took."""
        self._seconds = time.perf_counter() - self._began
        self._cpu = cpu_seconds() - self._cpu
        print(f"[{self.name}] done in {self._seconds:.1f} s", file=sys.stderr, flush=True)

    @property
    def record(self) -> Step:
        """The step as an output of its task."""
        finished = datetime.now(timezone.utc).isoformat()
        cpu, gpu = self._cpu, 0.0
        if self._cost:
            cpu, gpu = self._cost.cpu_seconds, self._cost.gpu_seconds
        return Step(
            self.name, round(self._seconds + self._before, 3), finished, "\n".join(self._messages),
            round(cpu, 3), round(gpu, 3),
        )  # fmt: skip


@contextmanager
def step(name: str) -> Iterator[StepLog]:
    """Time a step; a step that raises prints nothing more."""
    log = StepLog(name)
    print(f"[{name}] started", file=sys.stderr, flush=True)
    yield log
    log.finish()
