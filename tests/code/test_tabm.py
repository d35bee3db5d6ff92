"""TabM: its members learn for themselves, answer by their mean, and are served as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from toy import TOY, toy_rows, toy_training_set

from feature_repo.home import Home
from feature_repo.inputs import input_columns, model_inputs
from feature_repo.model import AuxiliaryTargets, InputShape
from serving.network import Calibrated, builder_of, export_onnx
from serving.predictor import Predictor
from serving.preprocess import Preprocessor
from serving.tabm_network import normal_edges
from tasks import metrics
from tasks.export import _export
from tasks.fit import fit, save
from tasks.rows import labelled_rows
from tasks.types import TrainingConfig

SHAPE = InputShape(numeric=7, cardinalities=(4, 25), indicators=2)
OPTIONS = {
    "width": 8, "layers": 2, "dropout": 0.1, "members": 3, "bins": 6, "embedding": 2,
    "feature_fraction": 0.6,
}  # fmt: skip


@pytest.fixture
def network() -> torch.nn.Module:
    """A small one, its weights drawn anew."""
    torch.manual_seed(0)
    return builder_of(TOY, "tabm").network(SHAPE, OPTIONS)


def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs; the indicators are 0 or 1."""
    numeric = torch.randn(rows, SHAPE.numeric)
    numeric[:, -SHAPE.indicators :] = (numeric[:, -SHAPE.indicators :] > 0).float()
    codes = [torch.randint(0, count, (rows,)) for count in SHAPE.cardinalities]
    return numeric, torch.stack(codes, dim=1)


def test_answers_are_the_members_mean(network: torch.nn.Module) -> None:
    """A row's answer is one number, whatever rows stand beside it."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    numeric, categorical = batch(9)
    members = network.train()(numeric, categorical).squeeze(2)
    assert members.shape == (9, 3)
    assert bool((members.std(dim=1) > 0).all())
    raw = network.eval()(numeric, categorical)
    torch.testing.assert_close(raw, members.mean(dim=1))
    torch.testing.assert_close(network(numeric[4:5], categorical[4:5]), raw[4:5])


def test_each_member_has_its_own_loss() -> None:
    """The loss of a row is the mean of its members' losses, not the loss of their mean."""
    loss = builder_of(TOY, "tabm").loss
    raw, target = torch.tensor([[-2.0, 2.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0])
    each = torch.nn.functional.softplus(torch.tensor([[2.0, -2.0], [1.0, 1.0]]))
    torch.testing.assert_close(loss(raw[:, :, None], target), each.mean(dim=1))
    torch.testing.assert_close(loss(raw[:, 0], target), each[:, 0])


@pytest.mark.parametrize("model", ["mlp", "tabm"])
@pytest.mark.parametrize("above", [(), (0.0, 30.0)])
def test_a_rank_s_share_may_have_no_row(model: str, above: tuple[float, ...]) -> None:
    """An epoch's last batch may have fewer rows than there are ranks."""
    beside = AuxiliaryTargets(column="minutes", above=above) if above else None
    builder = builder_of(replace(TOY, auxiliary=beside), model)
    network = builder.network(SHAPE, OPTIONS).train()
    losses = builder.loss(network(*batch(0)), torch.zeros(0, 1 + len(above)).squeeze(1))
    assert losses.shape == (0,)
    losses.sum().backward()


@pytest.mark.parametrize(("fraction", "kept"), [(0.6, 4), (0.01, 1)])
def test_a_member_sees_its_own_part_of_the_inputs(fraction: float, kept: int) -> None:
    """Of seven numbers as many as are asked for, one at least; before and after training steps."""
    torch.manual_seed(3)
    shape = InputShape(numeric=7, cardinalities=(), indicators=2)
    network = builder_of(TOY, "tabm").network(shape, OPTIONS | {"feature_fraction": fraction})
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    seen = [seen_by_members(network, shape)]
    for _ in range(3):
        network.train()(torch.randn(32, 7), torch.zeros(32, 0).long()).square().mean().backward()
        optimizer.step()
    seen.append(seen_by_members(network, shape))
    assert seen[0].sum(dim=1).tolist() == [kept] * 3
    assert seen[1].equal(seen[0])
    if kept > 1:
        assert len({tuple(row) for row in seen[0].tolist()}) > 1


def seen_by_members(network: torch.nn.Module, shape: InputShape) -> torch.Tensor:
    """Whether a member's score [members, inputs] changes with an input."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    generator = torch.Generator().manual_seed(1)
    numeric = torch.randn(64, shape.numeric, generator=generator, requires_grad=True)
    scores = network(numeric, torch.zeros(64, 0).long()).squeeze(2).sum(dim=0)
    slopes = [torch.autograd.grad(s, numeric, retain_graph=True)[0] for s in scores]
    return torch.stack([slope.abs().sum(dim=0) > 0 for slope in slopes])


def test_auxiliary_targets_are_learned_beside_the_label() -> None:
    """Loss by hand: the label's and the mean of the auxiliary ones', each a mean over members."""
    measured = replace(TOY, auxiliary=AuxiliaryTargets(column="minutes", above=(0.0, 30.0)))
    raw = torch.tensor([[[-2.0, 1.0, 0.5], [2.0, -1.0, 0.0]]])  # [1 row, 2 members, 3 targets]
    target = torch.tensor([[1.0, 1.0, 0.0]])
    each = torch.nn.functional.softplus(torch.tensor([[2.0, -1.0, 0.5], [-2.0, 1.0, 0.0]]))
    mean = each.mean(dim=0)
    expected = mean[0] + mean[1:].mean()
    torch.testing.assert_close(builder_of(measured, "tabm").loss(raw, target)[0], expected)
    torch.testing.assert_close(builder_of(measured, "mlp").loss(raw[:, 0], target)[0],
        each[0, 0] + each[0, 1:].mean())  # fmt: skip
    for model in ("mlp", "tabm"):
        network = builder_of(measured, model).network(SHAPE, OPTIONS)
        assert network.train()(*batch(5)).shape[-1] == 3
        assert network.eval()(*batch(5)).shape == (5,)


def test_bins_are_the_training_rows_own() -> None:
    """Without a row at hand: of preprocessed inputs that have no ties, each bin holds an equal
    share."""
    rows = labelled_rows(TOY, toy_rows(), "training")
    inputs = model_inputs(TOY, rows.columns)
    fitted = Preprocessor.fit(input_columns(TOY), inputs)
    assert fitted.shape.indicators == len(fitted.indicators) == 1
    distance = fitted.transform(inputs)[0][:, fitted.numeric.index("distance")]
    edges = normal_edges(6).numpy()
    held = np.bincount(np.clip(np.searchsorted(edges, distance) - 1, 0, 5)) / len(distance)
    assert held == pytest.approx(np.full(6, 1 / 6), abs=0.01)


def test_what_was_trained_is_served(tmp_path: Path) -> None:
    """By configuration alone: trained, calibrated, exported, and asked in numpy and ONNX."""
    more: dict[str, object] = {"model": "tabm", "batch_size": 128, "learning_rate": 0.01}
    config = TrainingConfig.from_dict(more | OPTIONS)
    table = toy_training_set(Home(root=tmp_path / "home"))
    fitted = fit(TOY, table, config, lambda said: None)
    for name in ("trained", "model"):
        (tmp_path / name).mkdir()
    save(fitted, config, tmp_path / "trained")
    _export(TOY, tmp_path / "trained", tmp_path / "model")
    told = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (told["architecture"], told["config"]["members"]) == ("tabm", 3)

    rows = labelled_rows(TOY, toy_rows(), "test")
    answers = Predictor(TOY, tmp_path / "model").predict(rows.columns)
    arrays = fitted.preprocessor.transform(model_inputs(TOY, rows.columns))
    served = Calibrated(fitted.network, fitted.slope, fitted.intercept, binary=True).eval()
    with torch.no_grad():
        expected = served(*map(torch.from_numpy, arrays)).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert metrics.points("binary", rows.target, answers)["auc"] > 0.7


@pytest.mark.parametrize("shape", [SHAPE, InputShape(numeric=3, cardinalities=())])
def test_the_graph_answers_as_the_network(shape: InputShape, tmp_path: Path) -> None:
    """Batches of any size; no categories, no indicators."""
    torch.manual_seed(1)
    network = builder_of(TOY, "tabm").network(shape, OPTIONS)
    served = Calibrated(network, 1.1, -0.2, binary=True).eval()
    export_onnx(served, shape, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    taken = [i.name for i in session.get_inputs()]
    for rows in (1, 3, 257):
        numeric = torch.randn(rows, shape.numeric)
        codes = [torch.randint(0, count, (rows,)) for count in shape.cardinalities]
        categorical = torch.stack(codes, dim=1) if codes else torch.zeros(rows, 0).long()
        arrays = {"numeric": numeric.numpy(), "categorical": categorical.numpy()}
        (answer,) = session.run(None, {name: arrays[name] for name in taken})
        with torch.no_grad():
            expected = served(numeric, categorical).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-5)
