"""Ranks: the same global batches give the same training on one and on two of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import toy_training_set
from training_helpers import Job, finished, flown, weights

from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.training.loop import batch_of
from tasks.types import TrainingConfig

# 3,000 training rows in batches of 64: 47 steps an epoch, the last of 56 rows; 517 steps in all.
EXACT = TrainingConfig(
    epochs=11, batch_size=64, width=16, layers=2, dropout=0.0, learning_rate=1e-3, patience=11,
    seed=3, precision="float64",
)  # fmt: skip
SINGLE = dataclasses.replace(EXACT, epochs=1, batch_size=300, precision="float32")  # 10 steps


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


def both(
    table: Table, config: TrainingConfig, folder: Path, *, unsaved: bool = False
) -> tuple[Any, Any]:
    """Losses of each epoch and weights, on one rank and on two."""
    one = flown(Job(home=folder / "one", table=table, config=config, unsaved=unsaved))
    job = Job(home=folder / "two", table=table, config=config, unsaved=unsaved)
    two = finished(job, folder / "out", 2)
    return {
        "weights": weights(one),
        "curve": [dataclasses.asdict(epoch) for epoch in one.curve],
    }, two


@pytest.mark.parametrize(("sharding", "epochs"), [("none", 11), ("full", 2)])
def test_ranks_agree_in_double_precision(
    table: Table, tmp_path: Path, sharding: str, epochs: int
) -> None:
    """After 517 steps, with a ragged batch in each epoch, losses and weights agree within 1e-9;
    with weights and moments shared out, after 94."""
    config = dataclasses.replace(EXACT, sharding=sharding, epochs=epochs)
    one, two = both(table, config, tmp_path)
    assert len(two["curve"]) == epochs
    for here, there in zip(one["curve"], two["curve"], strict=True):
        assert there == pytest.approx(here, abs=1e-9)
    for name, value in one["weights"].items():
        # Kept in single precision: the last digit is the resolution of that.
        torch.testing.assert_close(two["weights"][name], value, rtol=2e-7, atol=1e-9)


def test_a_moving_average_of_shared_out_weights_is_judged_alone(
    table: Table, tmp_path: Path
) -> None:
    """What was gathered to judge it must not train on, also where no checkpoint comes between; the
    rate makes the second epoch worse, whose weights are then not read to be kept. TabM's masks are
    whole on each rank, beside its weights, which are not."""
    config = dataclasses.replace(
        EXACT, model="tabm", members=4, bins=4, feature_fraction=0.6, batch_size=256, epochs=3,
        sharding="full", averaging=0.25, learning_rate=0.6,
    )  # fmt: skip
    one, two = both(table, config, tmp_path, unsaved=True)
    losses = [epoch["validation_loss"] for epoch in one["curve"]]
    assert losses[1] > losses[0] > losses[2]
    for here, there in zip(one["curve"], two["curve"], strict=True):
        assert there == pytest.approx(here, abs=1e-9)


def test_ranks_agree_in_single_precision_for_a_while(table: Table, tmp_path: Path) -> None:
    """Ten steps within 1e-5; sums in another order drift apart later."""
    one, two = both(table, SINGLE, tmp_path)
    for here, there in zip(one["curve"], two["curve"], strict=True):
        assert there == pytest.approx(here, abs=1e-5)
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 64, 1000, 1001])
def test_an_epoch_s_batches_hold_each_row_once(rows: int) -> None:
    """Over all ranks, the ragged last batch too; another epoch has another order."""
    config = dataclasses.replace(EXACT, batch_size=64)
    steps = -(-rows // 64)
    epochs = []
    for epoch in range(2):
        batches = [batch_of(epoch * steps + step, rows, config) for step in range(steps)]
        shares = [batch[rank::3] for batch in batches for rank in range(3)]
        assert sorted(torch.cat(shares).tolist()) == list(range(rows))
        epochs.append(torch.cat(batches).tolist())
    assert rows == 1 or epochs[0] != epochs[1]
