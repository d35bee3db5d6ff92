"""A training as it stands between two steps: all that decides what comes next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tasks.training.ranks import Rank, device
from tasks.training.staging import local

if TYPE_CHECKING:
    from feature_repo.model import InputShape, ModelBuilder
    from tasks.types import TrainingConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Mean losses per row after one pass over the training part: of the weights that train, and
    of those that are judged, which may be averaged."""

    epoch: int
    training_loss: float
    validation_loss: float


@dataclass(kw_only=True, slots=True)
class Position:
    """Where a training stands. ``step`` counts global batches; ``skipped`` are those of them that
    a canary had passed over; ``best_step`` is where the best epoch ended; ``recent`` is what the
    canaries compare with, ``limits`` what they allow. ``returns``: how often the training went
    back, by the cause; ``aside``: rows whose batches are passed over, each with the step at which
    it was found."""

    step: int = 0
    best_step: int = 0
    curve: list[Epoch] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    recent: dict[str, list[float]] = field(
        default_factory=lambda: {"loss": [], "gradient norm": []}
    )
    limits: dict[str, float] = field(default_factory=dict)
    returns: dict[str, int] = field(default_factory=dict)
    aside: list[tuple[int, int]] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the least validation loss, the first of equals."""
        return min(self.curve, key=lambda epoch: epoch.validation_loss, default=None)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Position:
        """What ``dataclasses.asdict`` made of one."""
        return cls(**(raw | {"curve": [Epoch(**epoch) for epoch in raw["curve"]]}))

    def done(self, config: TrainingConfig) -> bool:
        """Whether the epochs, or the patience, are spent."""
        waited = len(self.curve) - self.best.epoch if self.best else 0
        return len(self.curve) >= config.epochs or waited > config.patience


@dataclass(kw_only=True, slots=True)
class Run:
    """The network with its optimizer, and what a checkpoint must hold beside them.

    ``network`` owns the parameters, ``model`` is what is called (wrapped where ranks train
    together); ``total`` is this rank's sum of losses in this epoch, ``averaged`` the moving average
    of parameters and buffers, empty where there is none, ``best`` the weights of the best epoch so
    far.
    """

    network: nn.Module
    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR
    total: torch.Tensor
    averaged: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    position: Position

    def average(self, share: float) -> None:
        """Have the step that was just done in the moving average, which reaches back over about
        this ``share`` of the steps so far: step t counts by a power of t, so that it means the same
        in a short training and in a long one (Karras et al., "Analyzing and Improving the Training
        Dynamics of Diffusion Models", 2024)."""
        if self.averaged:
            weight = min(1.0, 1.0 / (share * (self.position.step + 1)))
            torch._foreach_lerp_(list(local(self.averaged)), self._own(), weight)

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """The network; within, it has the weights that are judged: the averaged ones, if any."""
        if not self.averaged:
            yield self.network
            return
        own = self._own()
        kept = [value.clone() for value in own]
        torch._foreach_copy_(own, list(local(self.averaged)))
        try:
            yield self.network
        finally:
            torch._foreach_copy_(own, kept)
            if reshard := getattr(self.network, "reshard", None):
                reshard()  # what was gathered for the judgement is not what trains on

    def _own(self) -> list[torch.Tensor]:
        """This rank's part of what is averaged."""
        named = _named(self.network)
        return list(local({name: named[name] for name in self.averaged}))

    def keep_best(self) -> None:
        """Copy the weights: they are the best so far."""
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.best[name].copy_(value)
        self.position.best_step = self.position.step

    def move_to(self, position: Position) -> None:
        """Set position and learning rate, after weights and moments were read back."""
        self.position = position
        if position.step:
            before = {"last_epoch": position.step - 1, "_step_count": position.step}
            self.schedule.load_state_dict(before)
            self.schedule.step()


def start(
    builder: ModelBuilder, shape: InputShape, config: TrainingConfig, rows: int, rank: Rank
) -> Run:
    """A training before its first step: equal weights on every rank, each rank its own dropout."""
    torch.manual_seed(config.seed)
    network = builder.network(shape, asdict(config)).to(device(), DTYPES[config.precision])
    model = network
    if rank.world > 1 and config.sharding == "full":
        from torch.distributed.fsdp import fully_shard

        fully_shard(network)
    elif rank.world > 1:
        # Torch would lay the gradients out anew after the first step, and so sum them in another
        # order for one step after a resumption; looking for unused parameters, it does not. Of two
        # ranks' sum the order is one.
        model = nn.parallel.DistributedDataParallel(network, find_unused_parameters=rank.world > 2)
    rate = config.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=config.weight_decay)
    _lay_out(optimizer)
    steps = config.epochs * math.ceil(rows / config.batch_size)
    torch.manual_seed(config.seed + 1 + rank.number)
    return Run(
        network=network,
        model=model,
        loss=builder.loss,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps),
        total=torch.zeros((), dtype=torch.float64, device=device()),
        averaged={
            name: value.clone()
            for name, value in _named(network).items()
            if config.averaging and _averageable(value)
        },
        best={name: value.detach().clone() for name, value in network.state_dict().items()},
        position=Position(),
    )


def _named(network: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers: running statistics belong to the weights."""
    named = dict(network.named_parameters()) | dict(network.named_buffers())
    return {name: value.detach() for name, value in named.items()}


def _averageable(value: torch.Tensor) -> bool:
    """Neither a count nor, as masks and observers hold it, infinite."""
    return value.is_floating_point() and all(
        bool(part.isfinite().all()) for part in local({"": value})
    )


def state_of(run: Run, rank: Rank, own: bool = True) -> dict[str, Any]:
    """Everything that a checkpoint holds, tensors by name; reading into it changes the run.
    ``own``: with what each rank has for itself, its random state and sum of losses."""
    state: dict[str, Any] = {
        "network": run.network.state_dict(),
        "averaged": run.averaged,
        "best": run.best,
        "optimizer": {
            name: run.optimizer.state[parameter]
            for name, parameter in run.network.named_parameters()
        },
    }
    if own:
        state[f"rank{rank.number}"] = {"total": run.total, "random": torch.get_rng_state()}
        if torch.cuda.is_available():
            state[f"rank{rank.number}"]["cuda"] = torch.cuda.get_rng_state()
    return state


def take_own(state: dict[str, torch.Tensor]) -> None:
    """Set this rank's random state from what was read."""
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Make AdamW's moments now instead of at its first step, so that they can be read into."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
