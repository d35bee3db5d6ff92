"""What a training takes, in all its ranks."""

from __future__ import annotations

import time

import torch

from tasks.steps import Cost, cpu_seconds
from tasks.training.ranks import Rank, device, sum_over_ranks


class Meter:
    """What a training takes from here on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self, rank: Rank) -> Cost:
        """Of all ranks together, their children's CPU included; all ranks call it. GPU seconds are
        those for which GPUs were held, one a rank."""
        seconds = time.perf_counter() - self._began
        own = torch.tensor(cpu_seconds() - self._cpu, dtype=torch.float64)
        held = rank.world if device().type == "cuda" else 0
        return Cost(
            seconds=seconds,
            cpu_seconds=sum_over_ranks(own, rank),
            gpu_seconds=seconds * held,
        )
