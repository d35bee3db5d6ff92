"""What MLflow's record of a training takes, in a process like one that has just trained.

    python -m benchmarks.training_work.tracking FOLDER

Two records: the first one imports MLflow and opens the store, which is there already where this
was called before. Answers with their costs in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import tasks.fit
import tasks.train  # what a training has imported
from benchmarks.training_work.rows import DEMO, Meter
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.steps import Cost
from tasks.training.run import Epoch
from tasks.types import Folder
from tasks.watch.seen import Point, Seen

assert tasks.fit
assert tasks.train


def record(home: Home) -> dict[str, float]:
    """Log one training of the demo's length."""
    curve = [Epoch(epoch=n + 1, training_loss=0.5, validation_loss=0.5) for n in range(DEMO.epochs)]
    points = [Point(step=n, loss=0.5, gradient_norm=0.1, rows_per_second=1e4) for n in range(60)]
    phases = dict.fromkeys(("data", "forward", "backward", "canary", "optimizer"), 1.0)
    seen = Seen(
        curve=curve, points=points, phases=phases,
        cost=Cost(seconds=30.0, cpu_seconds=60.0, gpu_seconds=0.0),
    )  # fmt: skip
    made = Table(name="training_set", uri="", digest="0" * 64, schema_hash="", rows=0)
    trained = Folder("trained", "", f"{time.time_ns():064x}")
    meter = Meter()
    from tasks.tracking import log_training

    log_training(home, "flights", trained, made, DEMO, seen)
    return asdict(meter.read(0))


if __name__ == "__main__":
    HOME = Home(root=Path(sys.argv[1]))
    print(json.dumps({"first record": record(HOME), "next record": record(HOME)}))
