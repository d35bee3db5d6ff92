"""Spikes: an honest outlier costs a return, a training that diverges ends at its second one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.training.canaries import Finding, Tripped, check, largest, outlier
from tasks.training.loop import leave_out, order_of
from tasks.training.recovery import is_final
from tasks.training.run import Position


def test_a_spike_is_met_twice_at_most_and_an_outlier_is_set_aside() -> None:
    """By the cause: an input that is not finite does not use up what a spike may have."""
    position = Position()
    for step in range(200):
        check(position, step, {"loss": 0.5 + 0.01 * (step % 7), "gradient norm": 1.0}, True)
    with pytest.raises(Tripped, match="spike of the loss"):
        check(position, 200, {"loss": 2.0, "gradient norm": 1.0}, True)
    check(position, 200, {"loss": 2.0, "gradient norm": 1.0}, False)
    spike, broken = Tripped("spike", 500, 9.0, 1.0), Tripped("nan", 500, math.nan, math.inf)
    common, row = (Finding(layer="", inputs=[], rows=[], outlier=n) for n in (-1, 7))
    told = [is_final(position, *met) for met in ((broken, row), (spike, common), (spike, row))]
    assert told == [False, False, False]
    assert position.aside == [(7, position.step)]
    assert is_final(position, broken, row)
    assert is_final(position, spike, common)
    assert [is_final(position, spike, row) for _ in range(4)] == [False, False, False, True]


def test_losses_below_zero_are_no_spikes() -> None:
    """A likelihood's may be; then the gradient norm tells, and what lies above zero is a row's."""
    position = Position()
    for step in range(200):
        values = {"loss": 1.0 if step % 9 == 0 else -0.5, "gradient norm": 1.0}
        check(position, step, values, True)
    with pytest.raises(Tripped, match="spike of the gradient norm"):
        check(position, 200, {"loss": -0.5, "gradient norm": 99.0}, True)
    losses = torch.tensor([-2.0, 0.5, 0.4, -1.0])
    assert outlier([largest(losses, torch.arange(4))]) == 1
    assert outlier([largest(losses - 1.0, torch.arange(4))]) == -1


def simulated(rows: int, seed: int, diverges: bool = False) -> tuple[list[bool], Position]:
    """Six epochs of batches of 1,024 whose losses are squares of Student's t with 3 degrees of
    freedom: what came of each trip. One that ``diverges`` doubles all losses at each step from the
    500th on."""
    position, ends, size = Position(), list[bool](), 1024
    noise = torch.from_numpy(np.random.default_rng(seed).standard_t(3, rows))
    losses, steps = (noise / noise.std()) ** 2, math.ceil(rows / size)
    for epoch in range(6):
        order = order_of(rows, seed, epoch + 1)
        leave_out(position, order, epoch * steps, size)
        for index, batch in enumerate(order.split(size)):
            position.step = step = epoch * steps + index
            own = losses[batch] * 2.0 ** (max(step - 500, 0) if diverges else 0)
            values = {"loss": float(own.mean()), "gradient norm": 1.0}
            try:
                if step not in position.skipped:
                    check(position, step, values, len(batch) == size)
            except Tripped as trip:
                shares = [largest(own[rank::2], batch[rank::2]) for rank in range(2)]
                finding = Finding(layer="", inputs=[], rows=[], outlier=outlier(shares))
                position.skipped.append(step)
                ends.append(is_final(position, trip, finding))
                if ends[-1]:
                    return ends, position
    return ends, position


def test_heavy_tails_end_no_training() -> None:
    """An outlier's row comes back in each epoch, at another place: it costs one return in all."""
    found = [simulated(240_000, seed) for seed in range(10)]
    assert not any(any(ends) for ends, _ in found)
    returns = [len(ends) for ends, _ in found]
    assert max(returns) == 2
    assert sum(returns) == sum(len(position.aside) for _, position in found) > 3
    passed_over = [len(position.skipped) for _, position in found]
    assert max(passed_over) > 6  # the same rows again, without a return


def test_a_training_that_diverges_ends_at_its_second_spike() -> None:
    """Heavy tails or not."""
    for seed in range(3):
        ends, position = simulated(240_000, seed, diverges=True)
        assert ends[-1]
        assert position.returns["spike"] == 2
        assert position.step < 520
