"""Canaries: what stops a training that goes bad, and what they leave behind for its reader.

A loss or gradient norm is refused where it is not finite, or where its logarithm lies further above
the median of the last good steps than ``SPIKE`` robust deviations (1.4826 times the median absolute
deviation; Rousseeuw and Croux, 1993) and ``LEAST`` at once. A loss that falls to zero or below has
no logarithm: then the gradient norm alone tells.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import distributed, nn

from feature_repo.errors import TrainingError
from tasks.training.ranks import Rank

if TYPE_CHECKING:
    from tasks.training.loop import Course
    from tasks.training.parts import Part
    from tasks.training.run import Position, Run

WINDOW = 64  # good steps that a new one is compared with
SPIKE = 12.0  # robust deviations; the noise of healthy batches stays below 6
LEAST = {"loss": math.log(2), "gradient norm": math.log(10)}
RENEWED = 16  # a limit is worked out again at each step that this divides
DELAY = 10  # steps between two looks where a look costs a wait for the GPU or the other ranks
STALL_SECONDS = 300.0


class Tripped(Exception):  # noqa: N818 (a signal between loop and fit, not an error of the user's)
    """A canary's limit was passed."""

    def __init__(self, canary: str, step: int, value: float, limit: float) -> None:
        super().__init__(canary, step, value, limit)
        self.canary, self.step, self.value, self.limit = canary, step, value, limit


def limit_of(name: str, recent: list[float]) -> float:
    """The greatest value that the last good ones allow; any while there are too few of them."""
    if len(recent) < WINDOW or min(recent) <= 0.0:
        return math.inf
    logs = np.log(recent)
    middle = np.median(logs)
    deviation = 1.4826 * np.median(np.abs(logs - middle))
    return float(np.exp(middle + max(SPIKE * deviation, LEAST[name])))


class Canary:
    """Looks at each step's loss and gradient norm before they change a weight; where a look would
    wait for a GPU or for other ranks, at several steps at once, and before each checkpoint."""

    def __init__(self, rank: Rank, on: torch.device) -> None:
        self._rank = rank
        self._every = 1 if rank.world == 1 and on.type == "cpu" else DELAY
        self._waiting: list[tuple[int, torch.Tensor, torch.Tensor, bool]] = []
        self._armed = False
        self._position: Position | None = None

    def look(
        self, position: Position, mean: torch.Tensor, norm: torch.Tensor, *, whole: bool
    ) -> None:
        """Look at a step; ``mean`` is this rank's part of the batch's mean loss. One that is not
        ``whole``, an epoch's last, is too noisy to be compared with others: it must be finite."""
        self._position = position
        self.beat()
        self._waiting.append((position.step, mean, norm, whole))
        if len(self._waiting) >= self._every:
            self.settle()

    def settle(self) -> None:
        """Look at all the steps that wait for it; all ranks call it at the same step.

        Raises:
            Tripped: a step's loss or gradient norm passed its limit.
        """
        if not self._waiting or self._position is None:
            return
        steps = [(step, whole) for step, _, _, whole in self._waiting]
        means = torch.stack([mean for _, mean, _, _ in self._waiting])
        norms = torch.stack([norm for _, _, norm, _ in self._waiting])
        if self._rank.world > 1:
            distributed.all_reduce(means)
            # The ranks' own, which are equal but for the last digit: all must judge one value.
            distributed.broadcast(norms, src=0)
        self._waiting = []
        for (step, whole), loss, norm in zip(steps, means.tolist(), norms.tolist(), strict=True):
            check(self._position, step, {"loss": loss, "gradient norm": norm}, whole)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Within, a step that takes longer than ``STALL_SECONDS`` ends the training: its loader or
        another rank is dead. Only a process's main thread can be woken so."""
        self._waiting = []
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._stalled)
        self._armed = True
        try:
            yield
        finally:
            self.rest()
            self._armed = False
            signal.signal(signal.SIGALRM, before)

    def beat(self) -> None:
        """The training is alive, and a step is expected."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, STALL_SECONDS)

    def rest(self) -> None:
        """What comes now may take its time: no step is expected before the next ``beat``."""
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _stalled(self, number: int, frame: Any) -> None:
        step = self._position.step if self._position else 0
        raise TrainingError(
            f"no step was done for {STALL_SECONDS:.0f} s after step {step}: what feeds the "
            "training, or another rank, is dead; look at its log, then run again: the training "
            "goes on from its last checkpoint"
        )


def check(position: Position, step: int, values: dict[str, float], whole: bool) -> None:
    """Hold a step's values against what its position allows, and remember them there.

    Raises:
        Tripped: one is not finite, or a whole batch's passed its limit.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Tripped(f"{name} not finite", step, value, math.inf)
        if whole and (step % RENEWED == 0 or name not in position.limits):
            position.limits[name] = limit_of(name, position.recent[name])
        if whole and value > position.limits[name]:
            raise Tripped(f"spike of the {name}", step, value, position.limits[name])
    for name, value in values.items() if whole else ():
        position.recent[name] = [*position.recent[name][1 - WINDOW :], value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a batch that was passed over shows: the layer, the inputs and rows that are not finite,
    and ``outlier``, the row whose loss is more than all others' together, -1 for none."""

    layer: str
    inputs: list[str]
    rows: list[int]
    outlier: int = -1


def diagnose(run: Run, part: Part, batch: torch.Tensor, course: Course) -> Finding:
    """Run a batch forward and backward without a step, and find the layer that goes bad first.
    Weights, moments and random state are as before; all ranks call it."""
    from tasks.training.loop import backward

    rank = course.rank
    share = batch[rank.number :: rank.world]
    bad: list[str] = []
    hooks = [
        module.register_forward_hook(_record(name, bad))
        for name, module in run.network.named_modules()
        if name and not any(module.children())
    ]
    devices = [part.target.device] if part.target.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            _, losses = backward(run, part, batch, course)
    finally:
        for hook in hooks:
            hook.remove()
    # Where weights are shared out, all ranks must ask for it, also those that need no answer.
    worst = _worst_gradient(run.network)
    layer = bad[0] if bad else worst
    run.optimizer.zero_grad(set_to_none=True)
    own = Seen(layer, bool(bad), *_sick(part, share), largest(losses, share))
    told = [own]
    if rank.world > 1:
        told = [own] * rank.world
        distributed.all_gather_object(told, own)
    names = course.parts.preprocessor.numeric
    return Finding(
        layer=next((seen.layer for seen in told if seen.bad), own.layer),
        inputs=sorted({names[i] for seen in told for i in seen.columns if i < len(names)}),
        rows=sorted(row for seen in told for row in seen.rows),
        outlier=outlier([seen.largest for seen in told]),
    )


class Seen(NamedTuple):
    """What one rank found in its share."""

    layer: str
    bad: bool
    columns: list[int]
    rows: list[int]
    largest: Largest


class Largest(NamedTuple):
    """The largest loss of some rows, its row, and the sum of all their losses above zero."""

    loss: float
    row: int
    total: float


def largest(losses: torch.Tensor, rows: torch.Tensor) -> Largest:
    """Of the losses [n] of rows [n]."""
    if not len(rows):
        return Largest(0.0, -1, 0.0)
    place = int(losses.argmax())
    return Largest(float(losses[place]), int(rows[place]), float(losses.clamp(min=0.0).sum()))


def outlier(told: list[Largest]) -> int:
    """The row whose loss is more than all others' of the batch together, -1 for none."""
    first = max(told)
    return first.row if 2 * first.loss > sum(one.total for one in told) else -1


def _sick(part: Part, rows: torch.Tensor) -> tuple[list[int], list[int]]:
    """Numeric columns and rows of the part that hold what is not finite."""
    wrong = ~part.numeric[rows].isfinite()
    sick = wrong.any(dim=1) | ~part.target[rows].isfinite()
    return wrong.any(dim=0).nonzero().flatten().tolist(), rows[sick].tolist()


def _record(name: str, bad: list[str]) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not bool(output.isfinite().all()):
            bad.append(name)

    return hook


def _worst_gradient(network: nn.Module) -> str:
    """The last layer whose gradient is not finite, which is where backward meets it first; else
    the layer with the greatest gradient. Where weights are shared out all ranks call it."""
    worst, greatest = "", -1.0
    for name, parameter in reversed(list(network.named_parameters())):
        if parameter.grad is None:
            continue
        norm = torch.linalg.vector_norm(parameter.grad)
        full = getattr(norm, "full_tensor", None)
        value = float(full() if full else norm)
        if not math.isfinite(value):
            return f"{name} (its gradient)"
        if value > greatest:
            worst, greatest = f"{name} (greatest gradient)", value
    return worst
