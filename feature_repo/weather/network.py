"""A network of one's own: a residual MLP that starts from a straight line.

Temperature follows its last value closely, so a linear path carries the forecast and the
residual blocks (He et al., 2016, with layer normalisation before each) learn what it misses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from feature_repo.model import InputShape, ModelBuilder

if TYPE_CHECKING:
    import torch

WIDTH, BLOCKS, EMBEDDING = 96, 2, 4


def network(shape: InputShape, options: Mapping[str, float | str]) -> torch.nn.Module:
    """Linear path plus residual blocks. Options: ``width``, ``blocks``, ``dropout``.

    ``forward(numeric [n, d] float32, categorical [n, k] int64)`` returns raw scores [n].
    """
    import torch
    from torch import nn

    width = int(options.get("width", WIDTH))
    blocks, dropout = int(options.get("blocks", BLOCKS)), float(options.get("dropout", 0.05))

    class Forecaster(nn.Module):
        """A straight line and what it misses."""

        def __init__(self) -> None:
            super().__init__()
            size = shape.numeric + EMBEDDING * len(shape.cardinalities)
            self.embeddings = nn.ModuleList(
                nn.Embedding(count, EMBEDDING) for count in shape.cardinalities
            )
            self.line = nn.Linear(size, 1)
            self.inlet = nn.Linear(size, width)
            self.blocks = nn.ModuleList(_block(width, dropout) for _ in range(blocks))
            self.outlet = nn.Linear(width, 1)
            nn.init.zeros_(self.outlet.weight)

        def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
            parts = [numeric]
            for index, embedding in enumerate(self.embeddings):
                parts.append(embedding(categorical[:, index]))
            inputs = torch.cat(parts, dim=1)
            hidden = self.inlet(inputs)
            for block in self.blocks:
                hidden = hidden + block(hidden)
            raw: torch.Tensor = (self.line(inputs) + self.outlet(hidden)).squeeze(1)
            return raw

    return Forecaster()


def _block(width: int, dropout: float) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout),
        nn.Linear(width, width),
    )  # fmt: skip


def loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Smooth L1 [n]: a front that comes early costs its size, not its square."""
    from torch.nn import functional

    return functional.smooth_l1_loss(raw, target, reduction="none")


RESIDUAL_MLP = ModelBuilder(name="residual_mlp", network=network, loss=loss)
