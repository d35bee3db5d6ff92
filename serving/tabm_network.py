"""TabM: many networks in one, the platform's second choice. Training only: imports torch.

Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with
Parameter-Efficient Ensembling" (2025); package ``tabm``, with the piecewise-linear embeddings of
Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features" (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import torch
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from tabm import EnsembleView, LinearBatchEnsemble, LinearEnsemble, make_tabm_backbone
from torch import nn
from torch.nn.utils import parametrize

from feature_repo.model import InputShape, ModelBuilder
from serving.network import Loss, label_and_auxiliary
from serving.preprocess import TAIL


class TabMNetwork(nn.Module):
    """``members`` MLPs that share most weights; each is trained by its own loss, and they answer
    by their mean.

    The bins of the piecewise-linear embeddings hold equal shares of a normal's mass: the
    preprocessing maps the training rows' quantiles to a normal's, so they hold about equal shares
    of those rows, and a network knows them without data. Indicators go in as they are. Each member
    sees its own ``feature_fraction`` of the inputs, drawn when the network is made (random
    subspaces, Ho 1998): members that lean on the same few inputs err together.
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
        feature_fraction: float = 1.0,
        auxiliary: int = 0,
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
        _see_a_part(self.backbone.blocks[0][0], parts, feature_fraction)
        self.output = LinearEnsemble(width, 1 + auxiliary, k=members)

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Raw scores from float32 [n, numeric] and int64 [n, categorical]: while training those of
        the members [n, members, 1 + t], for the label and the auxiliary targets, else the mean of
        the label's [n]."""
        parts = [self.numbers(numeric[:, : self.measured]).flatten(1)]
        parts += [numeric[:, self.measured :]]
        parts += [layer(categorical[:, i]) for i, layer in enumerate(self.embeddings)]
        inputs = torch.cat(parts, dim=1)
        hidden = self._hidden(inputs) if self.training else self.backbone(self.view(inputs))
        scores: torch.Tensor = self.output(hidden)
        return scores if self.training else scores[..., 0].mean(dim=1)

    def _hidden(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the backbone gives [n, members, width], at less cost for a large batch: the first
        layer scales its weights for each member, not each row's inputs, and so is one product. A
        canary that names the first bad layer names its activation instead."""
        (layer, *rest), *blocks = self.backbone.blocks
        weight = layer.s[:, :, None] * layer.weight * layer.r[:, None]  # [members, width, d]
        flat = nn.functional.linear(inputs, weight.flatten(0, 1), layer.bias.flatten())
        hidden: torch.Tensor = flat.unflatten(1, layer.bias.shape)
        for part in (*rest, *blocks):
            hidden = part(hidden)
        return hidden


class _Masked(nn.Module):
    """Zero for ever where ``mask`` is; part of the weights, so that it is restored with them."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, scales: torch.Tensor) -> torch.Tensor:
        masked: torch.Tensor = scales * self.get_buffer("mask")
        return masked


def _see_a_part(layer: LinearBatchEnsemble, parts: list[int], fraction: float) -> None:
    """Have each member's scales of the first layer's inputs be zero for all but a ``fraction`` of
    the inputs, which have ``parts`` columns each."""
    if fraction == 1.0:
        return
    scales = layer.r  # [members, columns]
    kept = max(1, round(fraction * len(parts)))
    chosen = torch.rand(len(scales), len(parts)).argsort(dim=1).argsort(dim=1) < kept
    with torch.no_grad():
        scales.mul_((len(parts) / kept) ** 0.5)  # what goes on has its size again
    mask = chosen.repeat_interleave(torch.tensor(parts), dim=1).float()
    parametrize.register_parametrization(layer, "r", _Masked(mask))


def normal_edges(bins: int) -> torch.Tensor:
    """Edges [bins + 1] of bins that hold equal shares of a normal's mass."""
    normal = NormalDist()
    shares = torch.linspace(TAIL, 1.0 - TAIL, bins + 1, dtype=torch.float64)
    return torch.tensor([normal.inv_cdf(share) for share in shares.tolist()])


def tabm_builder(loss: Loss, auxiliary: int) -> ModelBuilder:
    """TabM as a model builder; ``loss(raw, target)`` is that of one member, a value a row and
    target.

    Options: ``width``, ``layers``, ``dropout``, ``members``, ``bins``, ``embedding`` (the size of
    each numeric input's embedding), ``feature_fraction``.
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
            feature_fraction=float(options["feature_fraction"]),
            auxiliary=auxiliary,
        )

    def mean_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if raw.ndim == 1:  # the answer, which is what validation looks at
            return loss(raw, target)
        losses = loss(raw, target.reshape(len(raw), 1, raw.shape[-1]).expand_as(raw)).mean(dim=1)
        return label_and_auxiliary(losses if auxiliary else losses.squeeze(1))

    return ModelBuilder(name="tabm", network=network, loss=mean_loss, auxiliary=auxiliary > 0)
