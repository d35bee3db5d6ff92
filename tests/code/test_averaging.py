"""The moving average of the weights: what it is, and that it alone is judged and kept."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy import TOY, toy_training_set
from training_helpers import SMALL, same, weights

from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.model import InputShape, ModelBuilder
from feature_repo.tables import Table
from serving.network import builder_of
from tasks.fit import fit
from tasks.training.ranks import Rank
from tasks.training.run import Run, start
from tasks.types import TrainingConfig

SHAPE = InputShape(numeric=2, cardinalities=())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


def begun(averaging: float) -> Run:
    """A training of a small network before its first step."""
    config = dataclasses.replace(SMALL, averaging=averaging)
    return start(builder_of(TOY, "mlp"), SHAPE, config, 100, Rank(number=0, world=1))


def move(run: Run, value: float) -> None:
    """A step after which each weight has this value."""
    with torch.no_grad():
        for parameter in run.network.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("share", [0.1, 0.25])
@pytest.mark.parametrize("steps", [400, 4000])
def test_it_reaches_back_over_a_share_of_the_steps(share: float, steps: int) -> None:
    """However many they are: of weights that grow by one a step, it lags by share / (1 + share) of
    all steps, which is the mean age under a power function's weights."""
    run = begun(share)
    for step in range(1, steps + 1):
        move(run, float(step))
        run.average(share)
        run.position.step = step
    for value in run.averaged.values():
        lag = (steps - value) / steps
        torch.testing.assert_close(lag, torch.full_like(lag, share / (1 + share)), rtol=0.1, atol=0)


def test_it_is_judged_and_the_others_train_on() -> None:
    """Within the judgement the network has the average, after it its own weights again, also where
    the judgement fails."""
    run = begun(0.5)
    for step, value in enumerate((1.0, 2.0, 3.0), start=1):
        move(run, value)
        run.average(0.5)
        run.position.step = step
    with pytest.raises(ZeroDivisionError):
        judge_and_fail(run)
    for parameter in run.network.parameters():
        assert bool((parameter == 3).all())


def judge_and_fail(run: Run) -> None:
    """As a validation loss that is not finite does."""
    with run.judged() as network:
        for parameter in network.parameters():
            assert bool(((parameter > 1) & (parameter < 3)).all())
        raise ZeroDivisionError


def test_a_very_short_one_is_the_last_step_s_weights(table: Table) -> None:
    """As short as can be, it changes nothing; longer, it changes what is kept, and not by much."""

    def flown(averaging: float) -> tuple[dict[str, torch.Tensor], list[float]]:
        fitted = fit(TOY, table, dataclasses.replace(SMALL, averaging=averaging), print)
        return weights(fitted), [epoch.validation_loss for epoch in fitted.curve]

    (none, losses), (shortest, same_losses), (longer, others) = map(flown, (0.0, 1e-6, 0.3))
    assert same(none, shortest)
    assert losses == same_losses
    assert not same(none, longer)
    assert others == pytest.approx(losses, rel=0.2)
    assert others != losses


class Masked(torch.nn.Module):
    """A network of a user's own, with running statistics, a count and a mask that is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Raw scores [n]."""
        weight = self.get_buffer("mask").softmax(0)
        scores: torch.Tensor = self.layer(self.norm(numeric) * weight).squeeze(1)
        return scores


def test_statistics_are_averaged_and_infinite_buffers_are_left_alone() -> None:
    """Running statistics belong to the weights they were gathered under."""
    builder = ModelBuilder(
        name="masked",
        network=lambda shape, options: Masked(),
        loss=torch.nn.functional.binary_cross_entropy_with_logits,
    )
    config = dataclasses.replace(SMALL, averaging=0.5)
    run = start(builder, SHAPE, config, 100, Rank(number=0, world=1))
    assert {"norm.running_mean", "norm.weight", "layer.weight"} < run.averaged.keys()
    assert not {"mask", "norm.num_batches_tracked"} & run.averaged.keys()
    run.average(0.5)
    with run.judged() as network:
        assert network.get_buffer("mask").tolist() == [0.0, -torch.inf]


def test_it_must_be_a_share() -> None:
    """Below all of the steps."""
    with pytest.raises(TrainingError, match=r"averaging is 1\.0, but must be a number"):
        TrainingConfig(averaging=1.0)
