"""LightGBM's trials on October; the best of them by its log-loss.

    python -m benchmarks.quality_work.tuning

tries them anew on the last flights pipeline of ``$AIRWORTHY_HOME`` and writes ``trials.json``,
which the benchmark reads. The first are its defaults with more trees, the others are drawn from the
ranges that its guide to tuning names. TabM has the platform's defaults for it: docs/adr/0019 says
how they were chosen. All train on all training rows; test rows are not looked at.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_work import contenders
from benchmarks.quality_work.rows import training_set
from feature_repo.home import open_home
from tasks import metrics

FILE = Path(__file__).with_name("trials.json")
SEED = 1
DRAWS = 14  # about as many as TabM's in docs/adr/0019


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was tried, on how many training rows, and October's figures after Platt scaling."""

    parameters: dict[str, Any]
    rows: int
    log_loss: float
    auc: float
    seconds: float

    @property
    def said(self) -> str:
        """The parameters in a few words."""
        return ", ".join(f"{k} {v:.3g}" for k, v in self.parameters.items())


def trials() -> list[Trial]:
    """Best first."""
    return sorted((Trial(**raw) for raw in json.loads(FILE.read_text())), key=lambda t: t.log_loss)


def drawn(count: int) -> Iterator[dict[str, Any]]:
    """LightGBM's parameters: its defaults, then random ones."""
    rng = np.random.default_rng(SEED)
    yield {"learning_rate": 0.05}
    for _ in range(count - 1):
        yield {
            "learning_rate": round(float(10 ** rng.uniform(-2.0, -1.0)), 3),
            "num_leaves": round(2 ** rng.uniform(3.5, 8)),
            "min_data_in_leaf": round(10 ** rng.uniform(1.3, 3.3)),
            "feature_fraction": round(float(rng.uniform(0.2, 1.0)), 2),
            "bagging_fraction": round(float(rng.uniform(0.5, 1.0)), 2),
            "lambda_l2": round(float(10 ** rng.uniform(-2, 2)), 2),
            "cat_smooth": round(float(10 ** rng.uniform(0.5, 2.5)), 1),
        }


def tried(data: contenders.Data, scratch: Path) -> Iterator[Trial]:
    """Each draw."""
    target = data.parts["validation"].target
    for parameters in drawn(DRAWS):
        began = time.monotonic()
        (scored,) = contenders.boosting(data, [parameters | {"seed": SEED}], scratch)
        figures = metrics.points("binary", target, scored.validation)
        yield Trial(
            parameters=parameters, rows=len(data.parts["training"]),
            log_loss=round(figures["log_loss"], 5), auc=round(figures["auc"], 5),
            seconds=round(time.monotonic() - began),
        )  # fmt: skip


def main() -> None:
    """Try, and write what was found."""
    with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as scratch:
        found = []
        for trial in tried(training_set(open_home(), 1, Path(scratch)), Path(scratch)):
            print(f"{trial.log_loss:.5f} {trial.auc:.4f} {trial.said}", flush=True)
            found.append(asdict(trial))
            FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
