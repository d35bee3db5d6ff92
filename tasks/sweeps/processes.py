"""A sweep's workers as processes of this machine: started, watched, started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_repo.errors import TrainingError
from tasks.sweeps.study import Progress

STARTS = 4  # of a worker for nothing: one, and three after a death; trials that end begin anew
MOST_GIVEN_UP = 5  # configurations in a row, after which the fault is not theirs
PAUSE_SECONDS = 2.0  # times the deaths for nothing: what killed a worker may pass
POLL_SECONDS = 0.5


class _Worker:
    """One worker's processes, one after another."""

    def __init__(self, path: Path, number: int, workers: int) -> None:
        self.number = number
        self._told = (path, number, workers)
        self._deaths = 0  # for nothing
        self._due = 0.0
        self._seen: Progress
        self.process: subprocess.Popen[bytes] | None = None

    def start_when_due(self, seen: Progress) -> None:
        """Start it, unless it runs or has to wait."""
        if self.process is None and time.monotonic() >= self._due:
            self.process, self._seen = _start(*self._told), seen

    def died(self, seen: Progress) -> bool:
        """Its process is gone; whether another is to be started, after a pause."""
        self.process = None
        self._deaths = 1 if seen != self._seen else self._deaths + 1
        self._due = time.monotonic() + PAUSE_SECONDS * self._deaths
        return self._deaths < STARTS


def run_workers(
    path: Path, workers: int, say: Callable[[str], None], look: Callable[[], Progress]
) -> None:
    """Run ``workers`` on the sweep declared at ``path`` until it is over; ``look`` is called now
    and then, and says how far the sweep is.

    Raises:
        TrainingError: all workers died, again and again.
    """
    with _workers(path, workers) as living:
        over, how, ended = False, "", look()  # ``ended``: how far it was when a trial ended last
        while living:
            seen = look()
            ended = seen if seen.ended > ended.ended else ended
            vain = seen.given_up - ended.given_up >= MOST_GIVEN_UP
            for worker in list(living):
                code = worker.process.poll() if worker.process else None
                if code == 0:
                    over = True  # and those that wait for their start need none
                if code == 0 or (over and worker.process is None):
                    living.remove(worker)
                elif code is not None:
                    how = _how(code)
                    again = worker.died(seen) and not vain
                    say(
                        f"worker {worker.number} died ({how}); its trial goes to another"
                        f"{', and it is started again' if again else ''}"
                    )
                    if not again:
                        living.remove(worker)
                else:
                    worker.start_when_due(seen)
            time.sleep(POLL_SECONDS)
        if not over:
            raise TrainingError(
                f"each of the {workers} workers died again and again, the last one {how}; "
                "what it said is above; mend that and run the same command, which goes on"
            )


@contextmanager
def _workers(path: Path, workers: int) -> Iterator[list[_Worker]]:
    """Those that are not given up; what is left of them ends with the block."""
    living = [_Worker(path, number, workers) for number in range(workers)]
    try:
        yield living
    finally:
        processes = [worker.process for worker in living if worker.process]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def _start(path: Path, number: int, workers: int) -> subprocess.Popen[bytes]:
    """A worker on its share of cores and GPUs; its input is a pipe that ends with this process.
    Where there are fewer cores than workers, each has one, and one thread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.sweeps.worker", str(path), str(number)],
        stdin=subprocess.PIPE,
    )
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, set(cores[number % len(cores) :: workers]))
    return process


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
