"""What MLflow's record of a training adds to a process that asks the registry for the champion.

    python -m benchmarks.training_work.tracking FOLDER

Each pipeline's process asks, with or without a record: this imports MLflow and opens the store,
which is there already where this was called before. Answers with the costs of both in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.training_work.rows import DEMO, Meter
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.registry import champion_directory
from tasks.steps import Cost
from tasks.tracking import log_training, metrics_of
from tasks.training.run import Epoch
from tasks.types import Folder
from tasks.watch.seen import Point, Seen


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
    log_training(home, "flights", trained, made, DEMO, metrics_of(seen))
    return asdict(meter.read(0))


def look(home: Home) -> dict[str, float]:
    """Ask for the champion, as evaluation does."""
    meter = Meter()
    champion_directory(home, "flights", "")
    return asdict(meter.read(0))


if __name__ == "__main__":
    HOME = Home(root=Path(sys.argv[1]))
    print(json.dumps({"MLflow's start": look(HOME), "record": record(HOME)}))
