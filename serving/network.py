"""The platform's network, its loss, and the export to ONNX. Training only: imports torch.

What is trained here is what is served: the exported graph holds the calibration too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from feature_repo.contract import UseCase
from feature_repo.model import InputShape, ModelBuilder

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TabularNetwork(nn.Module):
    """Embeddings of the categorical inputs beside the numeric ones, then an MLP.

    After Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021). ``auxiliary``
    targets have a score each beside the label's, while training.
    """

    def __init__(
        self, shape: InputShape, width: int, layers: int, dropout: float, auxiliary: int = 0
    ) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        sizes = [min(16, (cardinality + 1) // 2 + 1) for cardinality in shape.cardinalities]
        self.embeddings = nn.ModuleList(
            nn.Embedding(cardinality, size)
            for cardinality, size in zip(shape.cardinalities, sizes, strict=True)
        )
        blocks: list[nn.Module] = []
        inputs = shape.numeric + sum(sizes)
        for _ in range(layers):
            blocks += [
                nn.Linear(inputs, width),
                nn.LayerNorm(width),
                nn.SiLU(),
                nn.Dropout(dropout),
            ]
            inputs = width
        self.body = nn.Sequential(*blocks)
        self.output = nn.Linear(inputs, 1 + auxiliary)

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Raw scores [n] from float32 [n, numeric] and int64 [n, categorical]; while training those
        of the auxiliary targets too, [n, 1 + t], where there are any."""
        parts = [numeric]
        parts += [layer(categorical[:, i]) for i, layer in enumerate(self.embeddings)]
        hidden = self.body(torch.cat(parts, dim=1))
        if self.training and self.auxiliary:
            told: torch.Tensor = self.output(hidden)
            return told
        weight, bias = self.output.weight[:1], self.output.bias[:1]
        return nn.functional.linear(hidden, weight, bias).squeeze(1)


class Calibrated(nn.Module):
    """A trained network with its outputs mapped to what is served.

    Binary: sigmoid(slope * raw + intercept), Platt scaling (1999). Regression: slope * raw +
    intercept, which also undoes the standardisation of the target.
    """

    def __init__(self, network: nn.Module, slope: float, intercept: float, binary: bool) -> None:
        super().__init__()
        self.network = network
        self.binary = binary
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float32))
        self.register_buffer("intercept", torch.tensor(intercept, dtype=torch.float32))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Predictions [n]: probabilities, or values in the label's unit."""
        raw: torch.Tensor = self.network(numeric, categorical)
        scaled: torch.Tensor = self.get_buffer("slope") * raw + self.get_buffer("intercept")
        return torch.sigmoid(scaled) if self.binary else scaled


def _binary_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(raw, target, reduction="none")


def _squared_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(raw, target, reduction="none")


def builder_of(use_case: UseCase, model: str) -> ModelBuilder:
    """What a configuration's ``model`` names: ``tabm``, or ``mlp``, which is the use case's own
    builder where it has one. The platform's networks have the loss of the task, and learn the
    auxiliary targets."""
    loss = _binary_loss if use_case.task == "binary" else _squared_loss
    auxiliary = len(use_case.auxiliary.above) if use_case.auxiliary else 0
    if model == "tabm":
        from serving.tabm_network import tabm_builder

        return tabm_builder(loss, auxiliary)
    return use_case.model or mlp_builder(loss, auxiliary)


def mlp_builder(loss: Loss, auxiliary: int) -> ModelBuilder:
    """The MLP as a model builder; options ``width``, ``layers``, ``dropout``."""

    def network(shape: InputShape, options: Mapping[str, float | str]) -> nn.Module:
        return TabularNetwork(
            shape, int(options["width"]), int(options["layers"]), float(options["dropout"]),
            auxiliary,
        )  # fmt: skip

    def whole(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return label_and_auxiliary(loss(raw, target))

    return ModelBuilder(name="mlp", network=network, loss=whole, auxiliary=auxiliary > 0)


def label_and_auxiliary(losses: torch.Tensor) -> torch.Tensor:
    """Of each row's losses, [n] or [n, 1 + t] with those of the auxiliary targets, the label's and
    the auxiliary ones' mean together [n]."""
    return losses if losses.ndim == 1 else losses[:, 0] + losses[:, 1:].mean(dim=1)


def export_onnx(module: nn.Module, shape: InputShape, path: Path) -> None:
    """Write ``module`` as ONNX: inputs ``numeric`` and ``categorical``, output ``prediction``.

    The batch dimension is dynamic; two rows are traced, since torch takes a size of one for a
    constant.
    """
    numeric = torch.zeros(2, shape.numeric)
    categorical = torch.zeros(2, len(shape.cardinalities), dtype=torch.int64)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module.eval(),
        (numeric, categorical),
        input_names=["numeric", "categorical"],
        output_names=["prediction"],
        dynamic_shapes={"numeric": {0: batch}, "categorical": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101 (torch returns None only for the old exporter)
    program.save(str(path), include_initializers=True, external_data=False)
