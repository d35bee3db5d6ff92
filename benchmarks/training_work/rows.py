"""What every contender trains on and with: rows of the flights' shape and number, made up, and the
demo's network, optimizer and schedule. Imported by the peers too: torch and numpy alone."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, replace

import torch

from feature_repo.model import InputShape
from feature_repo.registry import get_use_case
from serving.network import builder_of
from tasks.training.ranks import Rank, device
from tasks.training.run import Run, start
from tasks.types import TrainingConfig

ROWS = 244_450  # of the demo's training part
# Of the demo's training set: numbers with the columns that say what was missing; carrier, origin,
# destination, hour and weekday.
SHAPE = InputShape(numeric=116, cardinalities=(17, 4, 104, 20, 8), indicators=44)
DEMO = TrainingConfig()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """[n, 116], [n, 5] and [n] tensors; the label depends on the numbers."""

    numeric: torch.Tensor
    categorical: torch.Tensor
    target: torch.Tensor

    def resident(self) -> Rows:
        """The same rows where the network is, as the platform's loop has them."""
        on = device()
        return Rows(
            numeric=self.numeric.to(on), categorical=self.categorical.to(on),
            target=self.target.to(on),
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What some rows took: seconds on the clock and of CPU, workers' included."""

    rows: int
    wall: float
    cpu: float


class Meter:
    """Clock and CPU from now on; the CPU of children counts when they have ended."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _cpu()

    def read(self, rows: int) -> Cost:
        """What passed since the beginning; a GPU has done by then what it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Cost(rows, time.perf_counter() - self._wall, _cpu() - self._cpu)


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def make_rows(count: int) -> Rows:
    """As many rows, the same for every contender."""
    rng = torch.Generator().manual_seed(7)
    numeric = torch.randn(count, SHAPE.numeric, generator=rng)
    codes = [torch.randint(n, (count,), generator=rng) for n in SHAPE.cardinalities]
    weight = torch.randn(SHAPE.numeric, generator=rng) / SHAPE.numeric**0.5
    late = torch.sigmoid(numeric @ weight - 1.2) > torch.rand(count, generator=rng)
    return Rows(numeric=numeric, categorical=torch.stack(codes, dim=1), target=late.float())


def config_of(batch: int, **changed: float) -> TrainingConfig:
    """The demo's, for one epoch of batches of this size, but for what is changed."""
    return replace(DEMO, **({"epochs": 1, "batch_size": batch} | changed))


def begin(config: TrainingConfig, rows: int, rank: Rank | None = None) -> Run:
    """The demo's network with its optimizer and schedule, before the first step."""
    who = rank or Rank(number=0, world=1)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // who.world))  # as tasks.fit does
    flights = replace(
        get_use_case("flights"), auxiliary=None
    )  # the label alone, for every contender
    return start(builder_of(flights, "mlp"), SHAPE, config, rows, who)
