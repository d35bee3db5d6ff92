"""Trainings of the toy use case: in this process, or as processes that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from toy import TOY

from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks import fit as fitting
from tasks.fit import Fitted, fit
from tasks.training.attempts import open_attempt
from tasks.training.loop import Watch
from tasks.training.parts import Parts, read_parts
from tasks.training.ranks import Rank, process_group
from tasks.types import TrainingConfig

SMALL = TrainingConfig(
    epochs=3, batch_size=256, width=16, layers=2, dropout=0.2, learning_rate=3e-3, seed=7
)
HERE = Path(__file__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a training is asked for; ``stop_after``: steps, 0 for none; ``broken``: a training row
    that is not a number in memory, -1 for none: its label, or an input where ``an_input`` says so;
    ``unsaved``: without checkpoints, as in a sweep.
    """

    home: Path
    table: Table
    config: TrainingConfig = SMALL
    every: int = 0
    resume_from: str = ""
    stop_after: int = 0
    broken: int = -1
    an_input: bool = False
    unsaved: bool = False

    def made_of(self) -> dict[str, Any]:
        """As ``tasks.train`` says it."""
        return {
            "use_case": "toy",
            "declaration": "any",
            "training_set": self.table.digest,
            "config": asdict(self.config),
            "code": "any",
        }


class StoppedError(Exception):
    """The training was told to stop here."""


class StoppingWatch(Watch):
    """Ends a training after a number of steps, as an error of somebody else's would."""

    def __init__(self, say: Callable[[str], None], config: TrainingConfig, after: int) -> None:
        super().__init__(say, config)
        self.after = after

    def step(self, step: int, rows: int) -> None:
        """Raises StoppedError: after so many steps."""
        if step == self.after:
            raise StoppedError


def flown(job: Job, said: list[str] | None = None, rank: Rank | None = None) -> Fitted:
    """The training in this process, in the attempt that the home has for it."""
    say = (said if said is not None else []).append
    who = rank or Rank(number=0, world=1)
    if job.unsaved:
        return fit(TOY, job.table, job.config, say)
    with open_attempt(
        Home(root=job.home), job.made_of(), who, every=job.every, resume_from=job.resume_from
    ) as attempt:
        watch = StoppingWatch(say, job.config, job.stop_after)
        fitted = fit(TOY, job.table, job.config, say, attempt=attempt, watch=watch)
        if who.first:
            attempt.finish("0" * 64, say)
        return fitted


def weights(fitted: Fitted) -> dict[str, torch.Tensor]:
    """The trained network's."""
    return {name: value.cpu() for name, value in fitted.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal to the last bit."""
    return one.keys() == other.keys() and all(v.equal(other[k]) for k, v in one.items())


def process(job: Job, out: Path, ranks: int = 1) -> subprocess.Popen[str]:
    """Start the training as a user's launcher would, its weights and curve to come in ``out``."""
    told = json.dumps(
        {
            "home": str(job.home), "table": asdict(job.table), "config": asdict(job.config),
            "every": job.every, "resume_from": job.resume_from, "out": str(out),
            "broken": job.broken, "an_input": job.an_input, "unsaved": job.unsaved,
        }
    )  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.Popen(
        [sys.executable, *launcher, str(HERE), told],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE.parents[2]}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(job: Job, out: Path, ranks: int = 1) -> dict[str, Any]:
    """The training as processes of their own, to its end."""
    with process(job, out, ranks) as running:
        told, _ = running.communicate(timeout=300)
    assert running.returncode == 0, told
    return read(out)


def read(out: Path) -> dict[str, Any]:
    """Weights, curve and words of a finished process."""
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


def break_row(row: int, *, an_input: bool) -> None:
    """From here on this process reads it with a label, or an input, that is not a number."""

    def read_broken(*told: object, **more: object) -> Parts:
        parts = read_parts(*told, **more)  # type: ignore[arg-type]  # as fit calls it
        if an_input:
            parts.training.numeric[row, 1] = torch.nan
        else:
            parts.training.target[row] = torch.nan
        return parts

    fitting.read_parts = read_broken  # type: ignore[attr-defined]  # in this process alone


def main(told: str) -> None:
    """One rank of ``process``."""
    raw = json.loads(told)
    job = Job(
        home=Path(raw["home"]), table=Table(**raw["table"]), every=raw["every"],
        config=TrainingConfig(**raw["config"]), resume_from=raw["resume_from"],
        unsaved=raw["unsaved"],
    )  # fmt: skip
    if raw["broken"] >= 0:
        break_row(raw["broken"], an_input=raw["an_input"])
    with process_group() as rank:
        said: list[str] = []
        try:
            fitted = flown(job, said, rank)
        except TrainingError as exc:
            print(f"rank {rank.number} ended: {exc}", flush=True)
            time.sleep(1)  # the launcher ends the other ranks when one is gone
            raise
        if rank.first:
            curve = [asdict(epoch) for epoch in fitted.curve]
            found = {
                "weights": weights(fitted), "curve": curve, "said": said,
                "checkpoint": fitted.checkpoint, "passed_over": fitted.passed_over,
            }  # fmt: skip
            torch.save(found, raw["out"] + ".tmp")
            Path(raw["out"] + ".tmp").replace(raw["out"])


if __name__ == "__main__":
    main(sys.argv[1])
