"""What canaries and checkpoints add to a step, by blocks of steps with and without, in turns.

    python -m benchmarks.training_work.steps WHAT FOLDER PAIRS BATCH

Canaries look in the first block of a pair only. A checkpoint begins with the first block of a pair,
and is whole before its end: what that block takes longer is what one checkpoint costs, held up
or beside the training. Answers with seconds a block, in JSON.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.training_work.loops import course_of
from benchmarks.training_work.rows import ROWS, Cost, Meter, begin, config_of, make_rows
from tasks.training import loop
from tasks.training.canaries import Canary
from tasks.training.checkpoints import Checkpoints
from tasks.training.loop import Watch, train
from tasks.training.ranks import Rank, device
from tasks.training.run import Position, Run

ALONE = Rank(number=0, world=1)
BLOCKS = {"canaries": 4, "checkpoints": 20}  # steps
WARM = 4  # blocks that are not told


class Blocks(Watch):
    """What blocks of steps cost."""

    def __init__(self, length: int) -> None:
        super().__init__(lambda message: None, config_of(1))
        self.length, self.costs = length, list[Cost]()
        self._meter = Meter()

    @property
    def first(self) -> bool:
        """Whether the block under way is the first of a pair."""
        return len(self.costs) % 2 == 0

    def step(self, step: int, rows: int) -> None:
        """Close a block at its end."""
        if step % self.length == 0:
            self.costs.append(self._meter.read(rows * self.length))
            self._meter = Meter()


class Switched(Canary):
    """Canaries that look in the first block of a pair only."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(ALONE, device())
        self._blocks, self._norm = blocks, loop.gradient_norm
        loop.gradient_norm = self.norm  # the norm is for them alone

    def norm(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Of the gradients, or nothing."""
        return self._norm(optimizer) if self._blocks.first else torch.zeros(())

    def look(
        self, position: Position, mean: torch.Tensor, norm: torch.Tensor, *, whole: bool
    ) -> None:
        """At a step, or not."""
        if self._blocks.first:
            super().look(position, mean, norm, whole=whole)


class Spaced(Checkpoints):
    """One at the beginning of each pair of blocks, and none at an epoch's end."""

    def save(self, run: Run) -> None:
        """Where it is due, and was not yet done."""
        if self.due(run.position.step) and not self.last.endswith(f"{run.position.step:08d}"):
            super().save(run)


def measured(what: str, folder: Path, pairs: int, batch: int) -> list[dict[str, float]]:
    """Costs of blocks, the first and the second of each pair in turns."""
    blocks, length = Blocks(BLOCKS[what]), BLOCKS[what]
    steps = length * (2 * pairs + WARM)
    config = config_of(batch, epochs=math.ceil(steps / (ROWS // batch)), patience=steps)
    course = replace(course_of(make_rows(ROWS).resident(), config, ALONE), watch=blocks)
    if what == "canaries":
        course = replace(course, canary=Switched(blocks))
    checkpoints = Spaced(str(folder / "steps"), {}, ALONE, print, every=2 * length)
    if what == "checkpoints":
        course = replace(course, checkpoints=checkpoints)
    train(begin(config, ROWS), course)
    checkpoints.close()
    return [asdict(cost) for cost in blocks.costs[WARM : WARM + 2 * pairs]]


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))))
