"""What a save holds the training up: ours beside those that are waited for.

    python -m benchmarks.training_work.saves FOLDER ROUNDS WIDTH LAYERS

Of the same state (weights, the best ones, AdamW's moments), in turns: our save until it returns,
the same until the checkpoint is whole, torch.save and torch.distributed.checkpoint with what they
wrote on disk. Answers with seconds, round by round, in JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from benchmarks.training_work.rows import begin, config_of
from tasks.training.checkpoints import Checkpoints, state_of
from tasks.training.ranks import Rank
from tasks.training.run import Run

ALONE = Rank(number=0, world=1)
Save = Callable[[Path], dict[str, float]]


def seconds(work: Callable[[], object]) -> float:
    """What a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ours(run: Run, checkpoints: Checkpoints) -> Save:
    """Ours: held up; until it is whole, checksums and manifest included."""

    def work(folder: Path) -> dict[str, float]:
        run.position.step += 1
        stall = seconds(lambda: checkpoints.save(run))
        return {"ours, held up": stall, "ours, whole": stall + seconds(checkpoints.wait)}

    return work


def torchs(run: Run) -> Save:
    """torch.save of the same state, on disk."""

    def write(folder: Path) -> None:
        with (folder / "state.pt").open("wb") as file:
            torch.save(state_of(run, ALONE), file)
            file.flush()
            os.fsync(file.fileno())

    return lambda folder: {"torch.save": seconds(lambda: write(folder))}


def dcp(run: Run) -> Save:
    """torch.distributed.checkpoint's save, on disk, and its own asynchronous one."""
    stager = DefaultStager(StagingOptions(False, False, False, False))

    def sync(folder: Path) -> Any:
        save(state_of(run, ALONE), storage_writer=FileSystemWriter(folder / "s"), no_dist=True)

    def work(folder: Path) -> dict[str, float]:
        waited = seconds(lambda: sync(folder))
        began = time.perf_counter()
        writing: Any = async_save(
            state_of(run, ALONE), storage_writer=FileSystemWriter(folder / "a"), no_dist=True,
            async_stager=stager,
        )  # fmt: skip
        stall = time.perf_counter() - began
        writing.result()
        return {"DCP save": waited, "DCP async_save, held up": stall}

    return work


def measured(folder: Path, rounds: int, width: int, layers: int) -> dict[str, Any]:
    """Seconds by kind, round by round; the first one warms and is not told."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    run = begin(config_of(2048, width=width, layers=layers), 1)
    checkpoints = Checkpoints(str(folder / "ours"), {}, ALONE, print)
    kinds = [ours(run, checkpoints), torchs(run), dcp(run)]
    runs: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds + 1):
        for work in kinds[turn % 3 :] + kinds[: turn % 3]:
            scratch = folder / "other"
            scratch.mkdir(parents=True)
            for kind, took in work(scratch).items():
                runs.setdefault(kind, []).append({"wall": took})
            shutil.rmtree(scratch)
    checkpoints.close()
    state = state_of(run, ALONE)
    return {
        "runs": {kind: of[1:] for kind, of in runs.items()},
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "tensors": sum(len(of) for of in state.values()) + 2 * len(state["optimizer"]),
    }


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
