"""A worker: trains trial after trial until its sweep is over.

``python -m tasks.sweeps.worker SWEEP.json NUMBER`` is one as a process; it ends with its standard
input, so that no worker outlives whoever launched it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import AirworthyError, TrainingError
from feature_repo.home import Home
from tasks.sweeps.declared import Sweep, read

if TYPE_CHECKING:
    from optuna.study import Study

POLL_SECONDS = 1.0
# Two configurations in a row that cannot be trained: the fault may be the process's, not theirs.
MOST_FAILED = 6


def work(
    home: Home,
    sweep: Sweep,
    say: Callable[[str], None],
    after: Callable[[Study], object] = lambda study: None,
) -> int:
    """Train trials until the sweep is over; how many this worker ended. ``after`` is called after
    each. Any number of workers may do so at once, on any machine that shares home and
    storage.

    Raises:
        TrainingError: one trial after another failed.
    """
    from tasks.sweeps.storage import open_store
    from tasks.sweeps.study import Turn, open_study, take
    from tasks.sweeps.trial import train

    store, ended, failed = open_store(home, sweep.name), 0, 0
    with home.lock(f"sweep-{sweep.name}"):
        study = open_study(store, sweep)
    with store.life() as worker:
        while (taken := take(home, store, study, sweep, worker)) is not Turn.OVER:
            if isinstance(taken, Turn):
                time.sleep(POLL_SECONDS)  # a worker may die, and leave its trial to this one
                continue
            with store.beats(taken._trial_id):
                outcome = train(home, study, taken, sweep)
            say(outcome.said)
            ended += outcome.ended
            failed = failed + 1 if outcome.failed else 0
            if failed == MOST_FAILED:
                raise TrainingError(
                    f"{failed} trials failed here one after another; why is above: mend that, and "
                    "run the same command, which goes on"
                )
            after(study)
    return ended


def main(path: Path, number: int) -> int:
    """Work on the sweep that is declared at ``path``, in the home around it; ``number`` says which
    of this machine's GPUs is this worker's."""
    threading.Thread(target=_die_with_input, daemon=True).start()
    try:
        sweep = read(path)
        import torch

        os.environ["LOCAL_RANK"] = str(number % max(torch.cuda.device_count(), 1))
        work(Home(root=path.parents[2]), sweep, _say)
    except AirworthyError as exc:
        _say(f"a worker ends: {exc}")
        return 1
    return 0


def _die_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


def _say(message: str) -> None:
    print(f"[sweep] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
