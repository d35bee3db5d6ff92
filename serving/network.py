"""The platform's network, its loss, and the export to ONNX. Training only: imports torch.

What is trained here is what is served: the exported graph holds the calibration too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from feature_repo.contract import InputShape, ModelBuilder, UseCase


class TabularNetwork(nn.Module):
    """Embeddings of the categorical inputs beside the numeric ones, then an MLP.

    After Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021).
    """

    def __init__(self, shape: InputShape, width: int, layers: int, dropout: float) -> None:
        super().__init__()
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
        self.body = nn.Sequential(*blocks, nn.Linear(inputs, 1))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Raw scores [n] from float32 [n, numeric] and int64 [n, categorical]."""
        parts = [numeric]
        parts += [layer(categorical[:, i]) for i, layer in enumerate(self.embeddings)]
        scores: torch.Tensor = self.body(torch.cat(parts, dim=1)).squeeze(1)
        return scores


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


def _mlp(shape: InputShape, options: Mapping[str, float | str]) -> nn.Module:
    return TabularNetwork(
        shape, int(options["width"]), int(options["layers"]), float(options["dropout"])
    )


def _binary_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(raw, target, reduction="none")


def _squared_loss(raw: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(raw, target, reduction="none")


def builder_of(use_case: UseCase, model: str) -> ModelBuilder:
    """What a configuration's ``model`` names: ``tabm``, or ``mlp``, which is the use case's own
    builder where it has one. The platform's networks have the loss of the task."""
    loss = _binary_loss if use_case.task == "binary" else _squared_loss
    if model == "tabm":
        from serving.tabm_network import tabm_builder

        return tabm_builder(loss)
    if use_case.model is not None:
        return use_case.model
    return ModelBuilder(name="mlp", network=_mlp, loss=loss)


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
