"""A contender: trains one epoch for each line that it is sent, and answers with what that took.

    python -m benchmarks.training_work.loops NAME ROWS

A line is a batch size; an answer is JSON. ``ours`` may be several ranks under torch's launcher.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.training_work.rows import Cost, Meter, Rows, begin, config_of, make_rows
from serving.preprocess import Preprocessor
from tasks.training.canaries import Canary
from tasks.training.loop import Course, Watch, train
from tasks.training.parts import Part, Parts
from tasks.training.ranks import Rank, device, from_first, process_group, sum_over_ranks
from tasks.types import TrainingConfig
from tasks.watch.watcher import watching

Contender = Callable[[Rows, int, Rank], Cost]


def course_of(rows: Rows, config: TrainingConfig, rank: Rank) -> Course:
    """All that a training has but for checkpoints and who looks on; the validation part is one
    row, since the others have none."""
    whole = Part(numeric=rows.numeric, categorical=rows.categorical, target=rows.target)
    one = Part(
        numeric=rows.numeric[:1], categorical=rows.categorical[:1], target=rows.target[:1]
    )  # fmt: skip
    nothing = Preprocessor(numeric=(), knots=(), levels=(), indicators=(), categories={})
    return Course(
        parts=Parts(preprocessor=nothing, training=whole, validation=one, scale=(0.0, 1.0)),
        config=config,
        rank=rank,
        canary=Canary(rank, device()),
        watch=Watch(lambda message: None, config),
        passed_over=lambda position, finding: None,
    )


def ours(rows: Rows, batch: int, rank: Rank) -> Cost:
    """The loop of ``tasks.training`` as it is: canaries, phases, and on rank 0 who looks on. Rows
    are where the network is before it begins, as a training reads them once."""
    config = config_of(batch)
    run, course = begin(config, len(rows.target), rank), course_of(rows.resident(), config, rank)
    meter = Meter()
    with watching("flights", config, lambda message: None) as watch:
        train(run, replace(course, watch=watch) if rank.first else course)
    cost = meter.read(len(rows.target))
    return Cost(cost.rows, cost.wall, sum_over_ranks(torch.tensor(cost.cpu).double(), rank))


def floor(rows: Rows, batch: int, rank: Rank) -> Cost:
    """The same step on one batch that is there already."""
    run, there = begin(config_of(batch), len(rows.target)), rows.resident()
    numeric, categorical = there.numeric[:batch].clone(), there.categorical[:batch].clone()
    target = there.target[:batch].clone()
    steps = math.ceil(len(rows.target) / batch)
    run.network.train()
    meter = Meter()
    for _ in range(steps):
        loss = run.loss(run.model(numeric, categorical), target).mean()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.schedule.step()
    return meter.read(steps * len(target))


def loader(workers: int) -> Contender:
    """The loop that everybody writes, over a DataLoader with its defaults."""

    def work(rows: Rows, batch: int, rank: Rank) -> Cost:
        run, on = begin(config_of(batch), len(rows.target)), device()
        dataset = TensorDataset(rows.numeric, rows.categorical, rows.target)
        batches = DataLoader(
            dataset,
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=on.type != "cpu",
        )
        run.network.train()
        meter, total = Meter(), 0.0
        for told in batches:
            numeric, categorical, target = (part.to(on, non_blocking=True) for part in told)
            loss = run.loss(run.model(numeric, categorical), target).mean()
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
            run.schedule.step()
            total += loss.item() * len(target)
        return meter.read(len(rows.target))

    return work


CONTENDERS = {"ours": ours, "floor": floor, "loader 0": loader(0), "loader 2": loader(2)}


def answer(contender: Contender, count: int) -> None:
    """Read batch sizes, train, write costs."""
    with process_group() as rank:
        rows = make_rows(count)
        while line := from_first(sys.stdin.readline() if rank.first else "", rank):
            cost = contender(rows, int(line), rank)
            if rank.first:
                print(json.dumps(asdict(cost)), flush=True)


if __name__ == "__main__":
    answer(CONTENDERS[sys.argv[1]], int(sys.argv[2]))
