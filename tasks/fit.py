"""The training function: data in, trained and calibrated network out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from serving.network import builder_of
from serving.preprocess import Preprocessor
from tasks.calibration import calibrate
from tasks.steps import NO_COST, Cost
from tasks.training.canaries import Canary
from tasks.training.loop import Course, Watch, scores
from tasks.training.parts import Part, read_parts
from tasks.training.ranks import device, process_group, threads
from tasks.training.recovery import Evidence, train_on
from tasks.training.run import DTYPES, Epoch, Run, start

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.model import AuxiliaryTargets
    from feature_repo.tables import Table
    from tasks.training.attempts import Attempt
    from tasks.types import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A trained network and all that is needed to serve and to repeat it. ``checkpoint``: address
    of its last one; ``passed_over``: steps whose batch a canary refused; ``phases``: seconds;
    ``auxiliary``: what was learned beside the label; ``began``: the step at which this process took
    over, and ``before`` what those before it took."""

    network: nn.Module
    preprocessor: Preprocessor
    slope: float
    intercept: float
    curve: list[Epoch]
    best_epoch: int
    training_rows: int
    validation_rows: int
    checkpoint: str = ""
    passed_over: list[int] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    auxiliary: AuxiliaryTargets | None = None
    began: int = 0
    before: Cost = NO_COST


def fit(
    use_case: UseCase,
    table: Table,
    config: TrainingConfig,
    say: Callable[[str], None],
    *,
    attempt: Attempt | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Train on split ``training``, stop early and calibrate on split ``validation``. A model
    without stored features cannot follow the season: its level is that of both parts together.

    Under torch's elastic launcher every rank takes its share of each global batch, and the
    gradient is that of the global batch's mean loss, whatever the number of ranks. With an
    ``attempt`` the training is saved as it goes, and goes on where the attempt stands.

    Raises:
        TrainingError: a split without rows, or a training that went bad: see ``train_on``.
        CheckpointError: see ``Checkpoints.restore``.
    """
    with process_group() as rank:
        # The cores that this process may use: threads that wait for a core make each step wait.
        torch.set_num_threads(threads())
        builder = builder_of(use_case, config.model)
        dtype = DTYPES[config.precision]
        parts = read_parts(use_case, table, dtype, auxiliary=builder.auxiliary)
        shape = parts.preprocessor.shape
        if use_case.auxiliary and builder.auxiliary and rank.first:
            above = ", ".join(f"{value:g}" for value in use_case.auxiliary.above)
            say(f"the training loss counts {use_case.auxiliary.column} above {above} too")
        checkpoints = attempt.checkpoints(config, rank, say) if attempt else None
        evidence = Evidence(
            table=table, config=config, checkpoints=checkpoints, first=rank.first, say=say
        )
        course = Course(
            parts=parts,
            config=config,
            rank=rank,
            canary=Canary(rank, device()),
            watch=watch or Watch(say, config),
            passed_over=evidence.passed_over,
            checkpoints=checkpoints,
        )
        rows = len(parts.training)
        try:
            run = train_on(lambda: start(builder, shape, config, rows, rank), course, evidence)
        finally:
            if checkpoints:
                checkpoints.close()
        network = _whole(builder.network(shape, asdict(config)), run)
        used = [parts.validation] if use_case.features else [parts.training, parts.validation]
        raw = torch.cat([scores(network, _single(part)) for part in used])
        target = torch.cat([part.target for part in used]).float()
        slope, intercept = calibrate(raw, target, use_case.task == "binary")
        if use_case.task == "regression":
            slope, intercept = slope * parts.scale[1], intercept * parts.scale[1] + parts.scale[0]
        best = run.position.best
        return Fitted(
            network=network,
            preprocessor=parts.preprocessor,
            slope=slope,
            intercept=intercept,
            curve=run.position.curve,
            best_epoch=best.epoch if best else 0,
            training_rows=rows,
            validation_rows=len(parts.validation),
            checkpoint=(checkpoints.last or checkpoints.restored) if checkpoints else "",
            passed_over=run.position.skipped,
            phases=course.watch.phases.seconds,
            auxiliary=use_case.auxiliary if builder.auxiliary else None,
            began=course.watch.began,
            before=checkpoints.before if checkpoints else NO_COST,
        )


def _whole(network: nn.Module, run: Run) -> nn.Module:
    """The network of the best epoch, whole on this rank, in single precision."""
    best: dict[str, Any] = {}
    for name, value in run.best.items():
        gather = getattr(value, "full_tensor", None)  # sharded: all ranks call it
        best[name] = gather() if gather else value
    network.load_state_dict(best)
    return network.float().to(device())


def _single(part: Part) -> Part:
    return Part(
        numeric=part.numeric.float(), categorical=part.categorical, target=part.target.float()
    )


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
        "passed_over": fitted.passed_over,
        "auxiliary": asdict(fitted.auxiliary) if fitted.auxiliary else None,
        "curve": [asdict(epoch) for epoch in fitted.curve],
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1, sort_keys=True))
