"""What is left of a training beside its weights: curves, seconds by phase, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.steps import NO_COST, Cost

if TYPE_CHECKING:
    from tasks.training.run import Epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """The training at a step: means over the batches that the canaries compare with (the last 64),
    and the rows a second since the sample before."""

    step: int
    loss: float
    gradient_norm: float
    rows_per_second: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of a training; ``phases`` in seconds, ``cost`` of all ranks together, in all
    processes that worked at it, of which those before took ``before``. ``began``: the step at
    which this one went on, since which points and phases are."""

    curve: list[Epoch]
    points: list[Point]
    phases: dict[str, float]
    cost: Cost
    before: Cost = NO_COST
    began: int = 0
