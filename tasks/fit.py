"""The training function: plain PyTorch, the same under one process, local ranks or nodes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import distributed, nn

from feature_repo.errors import TrainingError
from feature_repo.inputs import Array, input_columns, model_inputs
from feature_repo.tables import Table, read_table
from serving.network import builder_of
from serving.preprocess import Preprocessor
from tasks.calibration import calibrate

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from tasks.types import TrainingConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
VALIDATION_BATCH = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Rows of one split, resident in memory: [n, d], [n, k] and [n] tensors."""

    numeric: torch.Tensor
    categorical: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """This process among those that train together."""

    number: int
    world: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Mean losses per row after one pass over the training part."""

    epoch: int
    training_loss: float
    validation_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained network and all that is needed to serve and to repeat it."""

    network: nn.Module
    preprocessor: Preprocessor
    slope: float
    intercept: float
    curve: list[Epoch]
    best_epoch: int
    training_rows: int
    validation_rows: int


def columns_of(use_case: UseCase, table: Table, split: str) -> tuple[dict[str, Array], Array]:
    """Columns (as ``model_inputs`` reads them) and labels [n] of one split's labelled rows."""
    import pyarrow.compute as pc

    rows = read_table(table)
    rows = rows.filter(pc.and_(pc.equal(rows["split"], split), pc.is_valid(rows["label"])))
    columns = {}
    for name in ("tick", *(f.name for f in use_case.fields), *(s.name for s in use_case.features)):
        values = rows[name].to_numpy(zero_copy_only=False)
        columns[name] = values.astype("datetime64[s]") if values.dtype.kind == "M" else values
    return columns, rows["label"].to_numpy().astype(np.float64)


def fit(
    use_case: UseCase, table: Table, config: TrainingConfig, say: Callable[[str], None]
) -> Fitted:
    """Train on split ``training``, stop early and calibrate on split ``validation``. A model
    without stored features cannot follow the season: its level is that of both parts together.

    Under torch's elastic launcher every rank takes its share of each global batch, and the
    gradient is that of the global batch's mean loss, whatever the number of ranks.

    Raises:
        TrainingError: a split without rows, or a loss that is not finite.
    """
    with process_group() as rank:
        torch.manual_seed(config.seed)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // rank.world))
        preprocessor, training, validation, scale = _parts(use_case, table)
        builder = builder_of(use_case)
        network = builder.network(preprocessor.shape, asdict(config)).to(_device())
        curve = list(_epochs(network, builder.loss, training, validation, config, rank, say))
        best = min(curve, key=lambda epoch: epoch[0].validation_loss)
        network.load_state_dict(best[1])
        binary = use_case.task == "binary"
        parts = (validation,) if use_case.features else (training, validation)
        raw = torch.cat([_scores(network, part) for part in parts])
        slope, intercept = calibrate(raw, torch.cat([part.target for part in parts]), binary)
        if not binary:
            slope, intercept = slope * scale[1], intercept * scale[1] + scale[0]
        return Fitted(
            network=network,
            preprocessor=preprocessor,
            slope=slope,
            intercept=intercept,
            curve=[epoch for epoch, _ in curve],
            best_epoch=best[0].epoch,
            training_rows=len(training),
            validation_rows=len(validation),
        )


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the group that torch's launcher describes, if there is one; once, for all trainings of
    this process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Rank(number=0, world=1)
        return
    if distributed.is_initialized():
        yield Rank(number=distributed.get_rank(), world=world)
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Rank(number=distributed.get_rank(), world=world)
    finally:
        distributed.destroy_process_group()


def _device() -> torch.device:
    """This rank's GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _parts(use_case: UseCase, table: Table) -> tuple[Preprocessor, Part, Part, tuple[float, float]]:
    """Fitted preprocessor, both parts, and (mean, deviation) of a regression's target."""
    columns, labels = columns_of(use_case, table, "training")
    late_columns, late_labels = columns_of(use_case, table, "validation")
    for name, rows in (("training", labels), ("validation", late_labels)):
        if not len(rows):
            raise TrainingError(
                f"{use_case.name}: split {name!r} has no labelled row; widen the split dates"
            )
    inputs = model_inputs(use_case, columns)
    preprocessor = Preprocessor.fit(input_columns(use_case), inputs)
    regression = use_case.task == "regression"
    scale = (float(labels.mean()), float(labels.std()) or 1.0) if regression else (0.0, 1.0)

    def part(values: dict[str, Array], target: Array) -> Part:
        numeric, categorical = preprocessor.transform(values)
        scaled = ((target - scale[0]) / scale[1]).astype(np.float32)
        return Part(
            numeric=torch.from_numpy(numeric).to(_device()),
            categorical=torch.from_numpy(categorical).to(_device()),
            target=torch.from_numpy(scaled).to(_device()),
        )

    validation = part(model_inputs(use_case, late_columns), late_labels)
    return preprocessor, part(inputs, labels), validation, scale


def _epochs(
    network: nn.Module,
    loss: Loss,
    training: Part,
    validation: Part,
    config: TrainingConfig,
    rank: Rank,
    say: Callable[[str], None],
) -> Iterator[tuple[Epoch, dict[str, torch.Tensor]]]:
    """Train an epoch at a time; yields its losses and weights until patience runs out."""
    model = nn.parallel.DistributedDataParallel(network) if rank.world > 1 else network
    rate = config.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=config.weight_decay)
    total_steps = config.epochs * math.ceil(len(training) / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=total_steps)
    shuffle = torch.Generator().manual_seed(config.seed)
    best, waited = math.inf, 0
    for number in range(1, config.epochs + 1):
        network.train()
        # Drawn on the CPU, so that the order is the same on every device.
        order = torch.randperm(len(training), generator=shuffle).to(_device())
        total = torch.zeros((), device=_device())
        for batch in order.split(config.batch_size):
            total += _step(model, loss, training, batch, rank, optimizer)
            schedule.step()
        epoch = Epoch(
            epoch=number,
            training_loss=_sum_over_ranks(total, rank.world) / len(training),
            validation_loss=float(loss(_scores(network, validation), validation.target).mean()),
        )
        _refuse_divergence(epoch, config)
        if rank.number == 0:
            say(
                f"epoch {number}/{config.epochs}: training loss {epoch.training_loss:.4f}, "
                f"validation loss {epoch.validation_loss:.4f}"
            )
        yield epoch, {k: v.detach().clone() for k, v in network.state_dict().items()}
        waited = 0 if epoch.validation_loss < best else waited + 1
        best = min(best, epoch.validation_loss)
        if waited > config.patience:
            break


def _step(
    model: nn.Module,
    loss: Loss,
    part: Part,
    batch: torch.Tensor,
    rank: Rank,
    optimizer: torch.optim.Optimizer,
) -> torch.Tensor:
    """One step on this rank's share of the global batch; returns its sum of losses."""
    rows = batch[rank.number :: rank.world]
    raw = model(part.numeric[rows], part.categorical[rows])
    # DDP averages over ranks, so each rank's sum is divided by the global batch's rows and
    # multiplied by the ranks: the gradient of the global mean.
    value = loss(raw, part.target[rows]).sum() * rank.world / len(batch)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()
    return value.detach() * len(batch) / rank.world


def _sum_over_ranks(value: torch.Tensor, world: int) -> float:
    if world > 1:
        distributed.all_reduce(value)
    return float(value)


def _refuse_divergence(epoch: Epoch, config: TrainingConfig) -> None:
    if not (math.isfinite(epoch.training_loss) and math.isfinite(epoch.validation_loss)):
        raise TrainingError(
            f"epoch {epoch.epoch}: the loss is not finite (training {epoch.training_loss}, "
            f"validation {epoch.validation_loss}); lower learning_rate, now {config.learning_rate}"
        )


def _scores(network: nn.Module, part: Part) -> torch.Tensor:
    """Raw scores [n] without gradients or dropout."""
    network.eval()
    with torch.no_grad():
        parts = zip(
            part.numeric.split(VALIDATION_BATCH),
            part.categorical.split(VALIDATION_BATCH),
            strict=True,
        )
        return torch.cat([network(numeric, categorical) for numeric, categorical in parts])


def save(fitted: Fitted, config: TrainingConfig, folder: Path) -> None:
    """Write weights (safetensors), preprocessing and the record of the training."""
    from safetensors.torch import save_file

    weights = {k: v.cpu().contiguous() for k, v in fitted.network.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    (folder / "preprocess.json").write_text(fitted.preprocessor.to_json())
    record = {
        "config": asdict(config),
        "slope": fitted.slope,
        "intercept": fitted.intercept,
        "best_epoch": fitted.best_epoch,
        "training_rows": fitted.training_rows,
        "validation_rows": fitted.validation_rows,
        "curve": [asdict(epoch) for epoch in fitted.curve],
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1, sort_keys=True))
