"""The processes that train together, and the device that each of them trains on."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from feature_repo.errors import TrainingError

PR_SET_PDEATHSIG = 1  # prctl(2)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """This process among those that train together."""

    number: int
    world: int

    @property
    def first(self) -> bool:
        """Whether this rank is the one that reports and stores."""
        return self.number == 0


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the group that torch's launcher describes, if there is one; once, for all trainings of
    this process. A rank dies with its launcher, which would else leave it training for nobody.

    Raises:
        TrainingError: there are GPUs, but fewer than ranks.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _die_with_parent()
    _take_gpu()
    if world == 1:
        yield Rank(number=0, world=1)
        return
    if distributed.is_initialized():
        yield Rank(number=distributed.get_rank(), world=world)
        return
    # Checkpoints are planned on the CPU, on GPUs too.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Rank(number=distributed.get_rank(), world=world)
    finally:
        distributed.destroy_process_group()


def _take_gpu() -> None:
    """Make this rank's GPU the current one, whose random state is drawn from and saved."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return
    if local >= torch.cuda.device_count():
        raise TrainingError(
            f"rank {local} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            "choose another launcher, or hide them all with CUDA_VISIBLE_DEVICES=''"
        )
    torch.cuda.set_device(local)


def threads() -> int:
    """Threads of one rank: its share of the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _die_with_parent() -> None:
    """Linux: SIGKILL this process when its parent is gone (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def device() -> torch.device:
    """This rank's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def sum_over_ranks(value: torch.Tensor, rank: Rank) -> float:
    """The sum of every rank's scalar; all ranks call it."""
    if rank.world > 1:
        distributed.all_reduce(value)
    return float(value)


def from_first(value: T, rank: Rank) -> T:
    """What rank 0 has, on every rank; all ranks call it."""
    if rank.world == 1:
        return value
    told: list[T] = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]
