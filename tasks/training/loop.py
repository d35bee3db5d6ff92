"""The loop over global batches: plain PyTorch, the same for one process, local ranks or nodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from feature_repo.errors import DivergedError
from tasks.training.canaries import Canary, Finding, diagnose
from tasks.training.ranks import Rank, from_first, sum_over_ranks
from tasks.training.run import Epoch, Run

if TYPE_CHECKING:
    from tasks.training.checkpoints import Checkpoints
    from tasks.training.parts import Part, Parts
    from tasks.training.run import Position
    from tasks.types import TrainingConfig

VALIDATION_BATCH = 16_384


@dataclass(slots=True)
class Phases:
    """Seconds by phase of a training: a phase ends where it is marked. On a GPU these are the
    seconds that the CPU spent, which waits for the device where a number is read."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def mark(self, phase: str) -> None:
        """What passed since the last mark was ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now


class Watch:
    """Who looks on: keeps the time, and says each epoch's losses. ``began``: the step at which this
    process took over."""

    def __init__(self, say: Callable[[str], None], config: TrainingConfig) -> None:
        self.phases = Phases()
        self.began = -1
        self._say, self._epochs = say, config.epochs

    def begin(self, position: Position, steps: int) -> None:
        """The training begins or goes on at ``position``, which moves with it; it takes ``steps``
        at the most, those before included. Called again where it went back."""

    def step(self, step: int, rows: int) -> None:
        """A global batch of ``rows`` is done, the ``step``-th of the training."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done; called on rank 0."""
        self._say(
            f"epoch {epoch.epoch}/{self._epochs}: training loss {epoch.training_loss:.4f}, "
            f"validation loss {epoch.validation_loss:.4f}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What does not change while a training runs."""

    parts: Parts
    config: TrainingConfig
    rank: Rank
    canary: Canary
    watch: Watch
    passed_over: Callable[[Position, Finding], None]
    checkpoints: Checkpoints | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in one epoch, the ragged last one counted."""
        return math.ceil(len(self.parts.training) / self.config.batch_size)


def train(run: Run, course: Course) -> None:
    """Go on from where ``run`` stands until its epochs, or the patience, are spent.

    Raises:
        Tripped: a canary's limit was passed.
        DivergedError: the validation loss is not finite, or no batch of an epoch was learnt.
        TrainingError: no step was done for too long.
    """
    phases = course.watch.phases
    if course.watch.began < 0:
        course.watch.began = run.position.step
    course.watch.begin(run.position, course.config.epochs * course.steps_per_epoch)
    with course.canary.alarm():
        while not run.position.done(course.config):
            _rest_of_epoch(run, course)
            course.canary.rest()
            phases.mark("other")
            epoch = _close_epoch(run, course)
            phases.mark("validation")
            if course.rank.first:
                course.watch.epoch(epoch)
            if course.checkpoints:
                course.checkpoints.save(run)
                phases.mark("checkpoint")


def order_of(rows: int, seed: int, epoch: int) -> torch.Tensor:
    """The rows [rows] of one epoch in the order of its batches: a function of seed and epoch, so
    that a training goes on anywhere, on any number of ranks, without having walked there."""
    # Drawn on the CPU, so that the order is the same on every device.
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch))


def batch_of(step: int, rows: int, config: TrainingConfig) -> torch.Tensor:
    """The rows of one global batch, by its step."""
    epoch, index = divmod(step, math.ceil(rows / config.batch_size))
    return order_of(rows, config.seed, epoch + 1).split(config.batch_size)[index]


def _rest_of_epoch(run: Run, course: Course) -> None:
    """The batches that this epoch still has."""
    part, phases, position = course.parts.training, course.watch.phases, run.position
    begun = len(position.curve)
    done = position.step - begun * course.steps_per_epoch
    order = order_of(len(part), course.config.seed, begun + 1)
    leave_out(position, order, begun * course.steps_per_epoch, course.config.batch_size)
    order = order.to(part.target.device)
    run.network.train()
    course.canary.beat()
    for batch in order.split(course.config.batch_size)[done:]:
        if position.step in position.skipped:
            course.passed_over(position, diagnose(run, part, batch, course))
        else:
            _step(run, part, batch, course)
        run.schedule.step()
        position.step += 1
        phases.mark("optimizer")
        course.watch.step(position.step, len(batch))
        if course.checkpoints and course.checkpoints.due(position.step):
            course.canary.settle()
            course.canary.rest()  # the checkpoint before may still be on its way
            course.checkpoints.save(run)
            course.canary.beat()
            phases.mark("checkpoint")
    course.canary.settle()


def leave_out(position: Position, order: torch.Tensor, first: int, batch_size: int) -> None:
    """Batches of an epoch, in this order and from step ``first``, are passed over where they hold
    a row that was set aside before it."""
    for row, since in position.aside:
        step = first + int((order == row).nonzero()) // batch_size
        if since < first and step not in position.skipped:
            position.skipped.append(step)


def backward(
    run: Run, part: Part, batch: torch.Tensor, course: Course
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the global batch's mean loss, from this rank's share of it; returns this rank's
    part of that mean, and the losses [rows] of its share."""
    rank, phases = course.rank, course.watch.phases
    rows = batch[rank.number :: rank.world]
    # A third of the cost of indexing by brackets.
    numeric, categorical = (
        part.numeric.index_select(0, rows),
        part.categorical.index_select(0, rows),
    )
    target = part.target.index_select(0, rows)
    if part.auxiliary is not None:
        target = torch.cat([target[:, None], part.auxiliary.index_select(0, rows)], dim=1)
    phases.mark("data")
    half = course.config.precision == "bfloat16"
    with torch.autocast(target.device.type, dtype=torch.bfloat16, enabled=half):
        raw = run.model(numeric, categorical)
    losses = run.loss(raw.to(target.dtype), target)
    mean = losses.sum() / len(batch)
    run.optimizer.zero_grad(set_to_none=True)
    phases.mark("forward")
    # Gradients are averaged over the ranks, so that the ranks' number undoes it.
    (mean * rank.world).backward()
    phases.mark("backward")
    return mean.detach(), losses.detach()


def _step(run: Run, part: Part, batch: torch.Tensor, course: Course) -> None:
    mean, _ = backward(run, part, batch, course)
    norm = gradient_norm(run.optimizer)
    course.canary.look(run.position, mean, norm, whole=len(batch) == course.config.batch_size)
    course.watch.phases.mark("canary")
    run.optimizer.step()
    run.average(course.config.averaging)
    run.total += mean * len(batch)


def gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Euclidean norm of all gradients together; with sharded ones all ranks call it."""
    groups = optimizer.param_groups
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    # As nn.utils.get_total_norm does it, whose sorting by device and type costs as much again.
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    full = getattr(norm, "full_tensor", None)
    return full() if full else norm


def _close_epoch(run: Run, course: Course) -> Epoch:
    """Judge the weights on the validation part, and keep them where they are the best."""
    with run.judged() as network:
        validation = course.parts.validation
        losses = run.loss(scores(network, validation), validation.target)
        epoch = _epoch(run, course, losses)
        run.position.curve.append(epoch)
        if run.position.best is epoch:
            run.keep_best()
    run.total.zero_()
    return epoch


def _epoch(run: Run, course: Course, losses: torch.Tensor) -> Epoch:
    """What an epoch ended with; ``losses`` [n] of the validation rows."""
    number, learnt = len(run.position.curve) + 1, _rows_learnt(run, course)
    if not learnt:
        raise DivergedError(
            f"epoch {number}: each of its batches was passed over; look at the rows that the "
            f"canaries named, or lower batch_size, now {course.config.batch_size:,}"
        )
    epoch = Epoch(
        epoch=number,
        training_loss=sum_over_ranks(run.total.clone(), course.rank) / learnt,
        # Ranks of unlike machines may differ in the last digit, and must stop at the same epoch.
        validation_loss=from_first(float(losses.mean()), course.rank),
    )
    if not math.isfinite(epoch.validation_loss):
        raise DivergedError(
            f"epoch {epoch.epoch}: the validation loss is {epoch.validation_loss}, the training "
            f"loss {epoch.training_loss:.4f}; lower learning_rate, now "
            f"{course.config.learning_rate}"
        )
    return epoch


def _rows_learnt(run: Run, course: Course) -> int:
    """Rows of this epoch less those of the batches that were passed over."""
    rows, size = len(course.parts.training), course.config.batch_size
    first = len(run.position.curve) * course.steps_per_epoch
    indices = [s - first for s in run.position.skipped if 0 <= s - first < course.steps_per_epoch]
    return rows - sum(min(size, rows - index * size) for index in indices)


def scores(network: nn.Module, part: Part) -> torch.Tensor:
    """Raw scores [n] without gradients or dropout."""
    network.eval()
    with torch.no_grad():
        parts = zip(
            part.numeric.split(VALIDATION_BATCH),
            part.categorical.split(VALIDATION_BATCH),
            strict=True,
        )
        return torch.cat([network(numeric, categorical) for numeric, categorical in parts])
