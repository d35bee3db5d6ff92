"""TabM against the MLP, LightGBM, a logistic model and a constant: who predicts flights best.

Same rows and inputs for all: weights from January to September, early stopping and Platt scaling on
October (the logistic model and the constant need neither), figures on November and December. TabM
and the MLP also learn the delay in minutes, as every flights model of the platform does; LightGBM
has no such means. TabM, MLP and LightGBM are trained once a seed; a figure is the mean over the
seeds, and the intervals of paired differences resample days, as those of the evaluation do, and
seeds. LightGBM's hyper-parameters are the best of its trials by October's log-loss
(``quality_work/trials.json``, made by ``quality_work.tuning``); TabM and the MLP have the
platform's, chosen by the same figure (docs/adr/0019, 0023).

LightGBM runs in an environment of its own, made on the first run and kept under
``$XDG_CACHE_HOME``. The training set is that of the last flights pipeline of ``$AIRWORTHY_HOME``:
``make demo`` first.

    python benchmarks/quality.py [--quick] [--json FILE] [--check]

``--quick`` trains two seeds on a quarter of the training rows: it shows that all runs, not who is
ahead. ``--check`` ends with 1 where TabM is not ahead of LightGBM in both figures with intervals
that exclude zero.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: no spinning threads

from benchmarks.quality_work import contenders  # noqa: E402
from benchmarks.quality_work.rows import training_set  # noqa: E402
from benchmarks.quality_work.tuning import trials  # noqa: E402
from feature_repo.home import open_home  # noqa: E402
from tasks import metrics, reference  # noqa: E402
from tasks.types import TrainingConfig  # noqa: E402

TABM, MLP, LIGHTGBM, LOGISTIC, CONSTANT = "TabM", "MLP", "LightGBM", "logistic", "constant"
FIGURES = {"auc": 1.0, "log_loss": -1.0}  # the sign of what is better
SEEDS, QUICK_SEEDS, QUICK_SHARE = 5, 2, 0.25
PRECISION = "bfloat16"  # of TabM's runs, which halves their CPU
RESAMPLES = 1000
Scores = dict[str, list[metrics.Floats]]
Resampled = dict[str, dict[str, metrics.Floats]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """TabM less LightGBM in one figure, its interval, and the limit that the interval keeps."""

    name: str
    value: float
    low: float
    high: float
    limit: float = 0.0
    more: bool

    @property
    def met(self) -> bool:
        """Whether the whole interval is on the better side."""
        return self.low > self.limit if self.more else self.high < self.limit


def scores_of(data: contenders.Data, seeds: int, folder: Path) -> Scores:
    """Test scores of every contender: one array a seed, and one of those that have none."""
    numbers = range(1, seeds + 1)
    training, test = data.parts["training"], data.parts["test"]
    scores: Scores = {name: [] for name in (TABM, MLP)}
    for seed in numbers:
        for name, model in ((TABM, "tabm"), (MLP, "mlp")):
            began = time.monotonic()
            more = {"precision": PRECISION} if name == TABM else {}
            config = TrainingConfig.from_dict({"model": model, "seed": seed} | more)
            scored = contenders.network(data, config)
            scores[name].append(scored.test)
            print(f"{name}, seed {seed}: {time.monotonic() - began:.0f} s, {october(data, scored)}")
    jobs = [trials()[0].parameters | {"seed": seed} for seed in numbers]
    boosted = list(contenders.boosting(data, jobs, folder))
    scores[LIGHTGBM] = [scored.test for scored in boosted]
    for seed, scored in zip(numbers, boosted, strict=True):
        print(f"{LIGHTGBM}, seed {seed}: {october(data, scored)}", flush=True)
    scores[LOGISTIC] = [reference.linear_scores(data.use_case, training, test)]
    scores[CONSTANT] = [reference.constant_scores(training, test)]
    return scores


def october(data: contenders.Data, scored: contenders.Scored) -> str:
    """The figures of the validation part, by which everything is chosen."""
    found = metrics.points(data.use_case.task, data.parts["validation"].target, scored.validation)
    return f"October's auc {found['auc']:.4f}, log-loss {found['log_loss']:.4f}"


def measured(data: contenders.Data, scores: Scores) -> tuple[Resampled, Resampled]:
    """By contender and figure: the value of each seed, and of each resample of days and seeds."""
    rows = data.parts["test"]
    days = metrics.day_numbers(rows.event_time)
    count = int(days.max()) + 1
    weights = np.concatenate([np.ones((1, count)), metrics.day_weights(count, RESAMPLES)])
    points: Resampled = {name: {} for name in scores}
    resampled: Resampled = {name: {} for name in scores}
    for place, (name, of_seeds) in enumerate(scores.items()):
        found = [
            metrics.measure(data.use_case.task, rows.target, score, days, weights, tuple(FIGURES))
            for score in of_seeds
        ]
        rng = np.random.default_rng([metrics.SEED, place])
        drawn = rng.integers(len(found), size=(len(weights) - 1, len(found)))
        for figure in FIGURES:
            table = np.stack([of[figure] for of in found], axis=1)  # [1 + resamples, seeds]
            points[name][figure] = table[0]
            resampled[name][figure] = np.take_along_axis(table[1:], drawn, axis=1).mean(axis=1)
    return points, resampled


def versus(points: Resampled, resampled: Resampled, one: str, other: str) -> dict[str, Target]:
    """Paired differences, one less the other, by figure."""
    told = {}
    for figure, sign in FIGURES.items():
        spread = metrics.interval(resampled[one][figure] - resampled[other][figure])
        told[figure] = Target(
            name=f"{figure}, {one} less {other}",
            value=float(points[one][figure].mean() - points[other][figure].mean()),
            low=spread.low, high=spread.high, more=sign > 0,
        )  # fmt: skip
    return told


def show(points: Resampled, beside: dict[str, dict[str, Target]]) -> None:
    """A line a contender: figures, their range over the seeds, differences to LightGBM."""
    print(f"\n{'':10}{'auc':>8}{'seeds':>18}{'log-loss':>10}{'seeds':>18}   less LightGBM, 95 %")
    for name, found in points.items():
        line = f"{name:10}"
        for figure, width in (("auc", 8), ("log_loss", 10)):
            values = found[figure]
            span = f"{values.min():.4f} to {values.max():.4f}" if len(values) > 1 else ""
            line += f"{values.mean():>{width}.4f}{span:>18}"
        told = "; ".join(map(_said, beside[name].values()))
        print(line + (f"   {told}" if name != LIGHTGBM else ""))


def _said(target: Target) -> str:
    return f"{target.value:+.4f} ({target.low:+.4f} to {target.high:+.4f})"


def report(
    points: Resampled, resampled: Resampled, about: dict[str, Any], path: Path | None
) -> bool:
    """Print every figure and paired difference, and write them to ``path``; whether TabM is ahead
    of LightGBM in all."""
    beside = {name: versus(points, resampled, name, LIGHTGBM) for name in points}
    show(points, beside)
    targets = list(beside[TABM].values())
    print()
    for target in targets:
        bound = f"low > {target.limit:g}" if target.more else f"high < {target.limit:g}"
        print(f"{target.name:34}{_said(target)}  {bound:10}{'met' if target.met else 'MISSED'}")
    if path:
        record = about | {
            "targets": [asdict(target) | {"met": target.met} for target in targets],
            "figures": {n: {f: v.tolist() for f, v in of.items()} for n, of in points.items()},
            "versus LightGBM": {
                n: {f: asdict(t) for f, t in of.items()} for n, of in beside.items()
            },
        }  # fmt: skip
        path.write_text(json.dumps(record, indent=2) + "\n")
    return all(target.met for target in targets)


def show_trials() -> list[dict[str, Any]]:
    """What tuning tried, by October's log-loss."""
    tried = trials()
    print(f"\n{LIGHTGBM}: {len(tried)} trials on October ({tried[0].rows:,} training rows)")
    for trial in tried:
        print(f"  {trial.log_loss:.5f} {trial.auc:.4f} {trial.seconds:>5.0f} s  {trial.said}")
    return [asdict(trial) for trial in tried]


def main(arguments: list[str]) -> int:
    """Train, measure, print, write; 1 where TabM is not ahead and ``--check`` is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds, a quarter of the rows")
    parser.add_argument("--json", type=Path, help="write every figure and its target")
    parser.add_argument("--check", action="store_true", help="exit 1 where TabM is not ahead")
    options = parser.parse_args(arguments)
    if options.quick and options.check:
        parser.error("--quick gives no verdict, which --check asks for: leave one of them out")
    tuned = show_trials()
    seeds, share = (QUICK_SEEDS, QUICK_SHARE) if options.quick else (SEEDS, 1)
    with tempfile.TemporaryDirectory(prefix="airworthy-bench-") as scratch:
        data = training_set(open_home(), share, Path(scratch))
        rows = {name: len(part) for name, part in data.parts.items()}
        print(f"\nrows {rows}, seeds {seeds}" + (": --quick, no verdict" if share < 1 else ""))
        scores = scores_of(data, seeds, Path(scratch))
        about = {"rows": rows, "seeds": seeds, "quick": options.quick, "trials": tuned}
        met = report(*measured(data, scores), about, options.json)
    return int(options.check and not met)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
