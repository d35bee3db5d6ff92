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

STARTS = 4  # of each worker: one, and three after a death
POLL_SECONDS = 0.5


def run_workers(
    path: Path, workers: int, say: Callable[[str], None], look: Callable[[], object]
) -> None:
    """Run ``workers`` on the sweep declared at ``path`` until it is over; ``look`` is called now
    and then.

    Raises:
        TrainingError: all workers died, again and again.
    """
    with _workers(path, workers) as running:
        started, code = dict.fromkeys(running, 1), 0
        while running:
            time.sleep(POLL_SECONDS)
            look()
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                code = process.returncode
                del running[number]
                if code == 0:
                    started[number] = 0
                    continue
                again = started[number] < STARTS
                say(
                    f"worker {number} died ({_how(code)}); its trial goes to another"
                    f"{', and it is started again' if again else ''}"
                )
                if again:
                    started[number] += 1
                    running[number] = _start(path, number, workers)
        if all(started.values()):
            raise TrainingError(
                f"each of the {workers} workers died {STARTS} times, the last one {_how(code)}; "
                "what it said is above; mend that and run the same command, which goes on"
            )


@contextmanager
def _workers(path: Path, workers: int) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """The running ones by number; what is left of them ends with the block."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        for number in range(workers):
            running[number] = _start(path, number, workers)
        yield running
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.wait()


def _start(path: Path, number: int, workers: int) -> subprocess.Popen[bytes]:
    """A worker on its share of cores and GPUs; its input is a pipe that ends with this process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.sweeps.worker", str(path), str(number)],
        stdin=subprocess.PIPE,
    )
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= workers:
        os.sched_setaffinity(process.pid, set(cores[number::workers]))
    return process


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"
