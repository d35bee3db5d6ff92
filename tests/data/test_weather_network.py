"""The network that weather brings along keeps the door's promises."""

from __future__ import annotations

import torch

from feature_repo.model import InputShape
from feature_repo.weather.network import RESIDUAL_MLP

SHAPE = InputShape(numeric=5, cardinalities=(4, 25))


def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs of the shape."""
    generator = torch.Generator().manual_seed(0)
    numeric = torch.randn(rows, 5, generator=generator)
    categories = [torch.randint(0, n, (rows,), generator=generator) for n in SHAPE.cardinalities]
    return numeric, torch.stack(categories, dim=1)


def test_one_score_and_one_loss_a_row() -> None:
    """Shapes [n]; a row's score does not depend on its neighbours."""
    torch.manual_seed(0)
    network = RESIDUAL_MLP.network(SHAPE, {"width": 32.0}).eval()
    numeric, categorical = batch(7)
    raw = network(numeric, categorical)
    assert raw.shape == (7,)
    assert RESIDUAL_MLP.loss(raw, torch.zeros(7)).shape == (7,)
    torch.testing.assert_close(network(numeric[2:3], categorical[2:3]), raw[2:3])


def test_it_starts_as_a_straight_line_and_learns_more() -> None:
    """Linear in the numbers before training; after it, it follows what is not linear."""
    torch.manual_seed(0)
    network = RESIDUAL_MLP.network(SHAPE, {"dropout": 0.0})
    numeric, categorical = batch(512)
    with torch.no_grad():
        zero = network(numeric * 0, categorical)
        line = network(numeric * 2, categorical) - zero
        torch.testing.assert_close(line, 2 * (network(numeric, categorical) - zero))
    target = numeric[:, 0] + numeric[:, 1].abs()
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = RESIDUAL_MLP.loss(network(numeric, categorical), target).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
