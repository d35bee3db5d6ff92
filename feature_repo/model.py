"""What a use case says of its model: the shape of the inputs, a network of its own, and what is
learned beside the label. No framework is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class AuxiliaryTargets:
    """The measure that a yes-or-no label was cut from: training also learns whether it lies above
    each of ``above``, which says more of a row than one bit; no model reads it, no answer tells it.

    ``column``, a number, is yielded by ``requests_sql`` beside the label and null where that is.
    Multi-task learning (Caruana 1997) of cumulative thresholds (Frank and Hall 2001).
    """

    column: str
    above: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InputShape:
    """What a network is built for: numeric inputs, then the size of each categorical one.

    The last ``indicators`` of the numeric ones are 0 or 1: whether another one is missing.
    """

    numeric: int
    cardinalities: tuple[int, ...]
    indicators: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelBuilder:
    """A user's own network. Import torch inside the functions, not beside them.

    ``network(shape, options)`` returns a module whose ``forward(numeric, categorical)`` takes
    float32 [n, shape.numeric] and int64 [n, len(shape.cardinalities)] and returns raw scores [n].
    ``loss(raw, target)`` returns one loss per row [n]; a regression's target is standardised. Of
    losses that may fall below zero no spike is told, only of the gradient norm. While it trains, a
    network may return more than it answers, which its ``loss`` reads. ``auxiliary``: while it
    trains, the target is [n, 1 + t], the use case's auxiliary targets beside the label. A rank's
    share of a batch may have no row.
    ``export(module, shape, path)`` writes an ONNX graph with inputs ``numeric`` and
    ``categorical``, output ``prediction`` [n] and a dynamic batch; ``None``: the platform's.
    """

    name: str
    network: Callable[[InputShape, Mapping[str, float | str]], torch.nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    export: Callable[[torch.nn.Module, InputShape, Path], None] | None = None
    auxiliary: bool = False
