"""What is left of a training beside its weights: curves, seconds by phase, and what it took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.steps import Cost, cpu_seconds

if TYPE_CHECKING:
    from tasks.training.ranks import Rank
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
    """What was seen of a training; ``phases`` in seconds, ``cost`` of all ranks together."""

    curve: list[Epoch]
    points: list[Point]
    phases: dict[str, float]
    cost: Cost


class Meter:
    """What a training takes from here on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self, rank: Rank) -> Cost:
        """Of all ranks together, their children's CPU included; all ranks call it. GPU seconds are
        those for which GPUs were held, one a rank."""
        import torch

        from tasks.training.ranks import device, sum_over_ranks

        seconds = time.perf_counter() - self._began
        own = torch.tensor(cpu_seconds() - self._cpu, dtype=torch.float64)
        held = rank.world if device().type == "cuda" else 0
        return Cost(
            seconds=seconds,
            cpu_seconds=sum_over_ranks(own, rank),
            gpu_seconds=seconds * held,
        )
