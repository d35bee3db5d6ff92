"""Trials on October: TabM's and more of LightGBM's; the best of each by its log-loss.

    python -m benchmarks.quality_work.tuning [TabM] [LightGBM]

tries them anew on the last flights pipeline of ``$AIRWORTHY_HOME`` and writes ``trials.json``,
which the benchmark reads. Both train on the same third of the training rows. TabM's trials were
picked one after another, after sketches that docs/adr/0019 tells; LightGBM's first are its
defaults with more trees, the others are drawn from the ranges that its guide to tuning names. Test
rows are not looked at.
"""

from __future__ import annotations

import json
import sys
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
from tasks.types import TrainingConfig

FILE = Path(__file__).with_name("trials.json")
TABM, LIGHTGBM = "TabM", "LightGBM"
SHARE = 0.33  # of the training rows
SEED = 1
PRECISION = "bfloat16"  # of TabM's trials and runs, which halves their CPU
# What was tried, each a change to ``FIRST``.
FIRST: dict[str, Any] = {
    "epochs": 8, "batch_size": 1024, "learning_rate": 2e-2, "weight_decay": 0.0, "width": 192,
    "layers": 2, "dropout": 0.3, "members": 8, "bins": 24, "embedding": 8, "feature_fraction": 0.6,
}  # fmt: skip
TRIED: tuple[dict[str, Any], ...] = (
    {},
    {"seed": 2},
    {"feature_fraction": 1.0},
    {"feature_fraction": 0.4},
    {"epochs": 12},
)
DRAWS = 11  # of LightGBM's


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was tried, on how many training rows, and October's figures after Platt scaling."""

    contender: str
    parameters: dict[str, Any]
    rows: int
    log_loss: float
    auc: float
    seconds: float

    @property
    def said(self) -> str:
        """The parameters in a few words."""
        return ", ".join(f"{k} {v:.3g}" for k, v in self.parameters.items()) or "as first chosen"


def trials(contender: str) -> list[Trial]:
    """Those of a contender, best first."""
    told = [Trial(**raw) for raw in json.loads(FILE.read_text())]
    return sorted((t for t in told if t.contender == contender), key=lambda t: t.log_loss)


def best(contender: str) -> dict[str, Any]:
    """The parameters of its best trial."""
    return (FIRST if contender == TABM else {}) | trials(contender)[0].parameters


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


def try_tabm(data: contenders.Data) -> Iterator[Trial]:
    """Each of ``TRIED``."""
    for parameters in TRIED:
        fixed: dict[str, Any] = {"model": "tabm", "seed": SEED, "precision": PRECISION}
        config = TrainingConfig.from_dict(fixed | FIRST | parameters)
        began = time.monotonic()
        scored = contenders.network(data, config)
        yield _trial(TABM, data, parameters, scored, time.monotonic() - began)


def try_lightgbm(data: contenders.Data) -> Iterator[Trial]:
    """Its draws."""
    jobs = list(drawn(DRAWS))
    with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as scratch:
        for parameters in jobs:
            began = time.monotonic()
            (scored,) = contenders.boosting(data, [parameters | {"seed": SEED}], Path(scratch))
            yield _trial(LIGHTGBM, data, parameters, scored, time.monotonic() - began)


def _trial(
    contender: str,
    data: contenders.Data,
    parameters: dict[str, Any],
    scored: contenders.Scored,
    seconds: float,
) -> Trial:
    figures = metrics.points("binary", data.parts["validation"].target, scored.validation)
    return Trial(
        contender=contender, parameters=parameters, rows=len(data.parts["training"]),
        log_loss=round(figures["log_loss"], 5), auc=round(figures["auc"], 5),
        seconds=round(seconds),
    )  # fmt: skip


def main(names: list[str]) -> None:
    """Try, and write what was found beside what is kept of the other contender."""
    tries = {TABM: try_tabm, LIGHTGBM: try_lightgbm}
    for name in names or tries:
        kept = [t for t in json.loads(FILE.read_text()) if t["contender"] != name]
        with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as scratch:
            data = training_set(open_home(), SHARE, Path(scratch))
            for trial in tries[name](data):
                print(f"{name} {trial.log_loss:.5f} {trial.auc:.4f} {trial.said}", flush=True)
                kept.append(asdict(trial))
        FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
