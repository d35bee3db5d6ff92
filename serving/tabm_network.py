"""TabM: many networks in one, the platform's second choice. Training only: imports torch.

Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with
Parameter-Efficient Ensembling" (2025); package ``tabm``, with the piecewise-linear embeddings of
Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist

import torch
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from tabm import EnsembleView, LinearEnsemble, make_tabm_backbone
from torch import nn

from feature_repo.contract import InputShape, ModelBuilder
from serving.preprocess import TAIL


class TabMNetwork(nn.Module):
    """``members`` MLPs that share most weights; each is trained by its own loss, and they answer
    by their mean.

    The bins of the piecewise-linear embeddings hold equal shares of a normal's mass: the
    preprocessing maps the training rows' quantiles to a normal's, so they hold about equal shares
    of those rows, and a network knows them without data. Indicators go in as they are.
    """

    def __init__(
        self,
        shape: InputShape,
        *,
        width: int,
        layers: int,
        dropout: float,
        members: int,
        bins: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.measured = shape.numeric - shape.indicators
        sizes = [min(16, (cardinality + 1) // 2 + 1) for cardinality in shape.cardinalities]
        self.numbers = PiecewiseLinearEmbeddings(
            [normal_edges(bins)] * self.measured, embedding, activation=False, version="B"
        )
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality, size)
            for cardinality, size in zip(shape.cardinalities, sizes, strict=True)
        )
        parts = [embedding] * self.measured + [1] * shape.indicators + sizes
        self.view = EnsembleView(k=members)
        self.backbone = make_tabm_backbone(
            d_in=sum(parts),
            n_blocks=layers,
            d_block=width,
            dropout=dropout,
            k=members,
            start_scaling_init="normal",
            start_scaling_init_chunks=parts,
        )
        self.output = LinearEnsemble(width, 1, k=members)

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Raw scores from float32 [n, numeric] and int64 [n, categorical]: those of the members
        [n, members] while training, else their mean [n]."""
        parts = [self.numbers(numeric[:, : self.measured]).flatten(1)]
        parts += [numeric[:, self.measured :]]
        parts += [layer(categorical[:, i]) for i, layer in enumerate(self.embeddings)]
        inputs = torch.cat(parts, dim=1)
        hidden = self._hidden(inputs) if self.training else self.backbone(self.view(inputs))
        scores: torch.Tensor = self.output(hidden).squeeze(2)
        return scores if self.training else scores.mean(dim=1)

    def _hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the backbone gives [n, members, width], at less cost for a large batch: the first
        layer scales its weights for each member, not each row's inputs, and so is one product."""
        (layer, *rest), *blocks = self.backbone.blocks
        weight = layer.s[:, :, None] * layer.weight * layer.r[:, None]  # [members, width, d]
        flat = nn.functional.linear(inputs, weight.flatten(0, 1), layer.bias.flatten())
        hidden: torch.Tensor = flat.unflatten(1, layer.bias.shape)
        for part in (*rest, *blocks):
            hidden = part(hidden)
        return hidden


def normal_edges(bins: int) -> torch.Tensor:
    """Edges [bins + 1] of bins that hold equal shares of a normal's mass."""
    normal = NormalDist()
    shares = torch.linspace(TAIL, 1.0 - TAIL, bins + 1, dtype=torch.float64)
    return torch.tensor([normal.inv_cdf(share) for share in shares.tolist()])


def tabm_builder(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> ModelBuilder:
    """TabM as a model builder; ``loss(raw, target)`` is that of one member, a value a row.

    Options: ``width``, ``layers``, ``dropout``, ``members``, ``bins``, ``embedding`` (the size of
    each numeric input's embedding).
    """

    def network(shape: InputShape, options: Mapping[str, float | str]) -> nn.Module:
        return TabMNetwork(
            shape,
            width=int(options["width"]),
            layers=int(options["layers"]),
            dropout=float(options["dropout"]),
            members=int(options["members"]),
            bins=int(options["bins"]),
            embedding=int(options["embedding"]),
        )

    def mean_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if raw.ndim == 1:  # the answer, which is what validation looks at
            return loss(raw, target)
        return loss(raw, target[:, None].expand_as(raw)).mean(dim=1)

    return ModelBuilder(name="tabm", network=network, loss=mean_loss)
