"""From a load test's steps to replicas; and a whole load test of a small model's server."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from feature_repo.errors import DeclarationError, StateError
from feature_repo.home import Home
from serving.capacity import Load, Scale, knee, read_scale, scale, write_scale


def load(connections: int, rate: float, failed: int = 0) -> Load:
    """A step of a closed loop: by Little's law, connections are rate times mean."""
    mean = connections / rate
    return Load(
        connections=connections, rate=rate, mean=mean, p99=3 * mean, cores=rate / 1000,
        failed=failed,
    )  # fmt: skip


STEPS = [load(1, 200), load(2, 390), load(4, 700), load(8, 760), load(16, 780), load(32, 770)]


def test_the_knee_is_where_more_load_buys_only_waiting() -> None:
    assert knee(STEPS).connections == 4


def test_a_step_with_failures_is_no_knee() -> None:
    assert knee([load(1, 200), load(2, 390), load(4, 700, failed=1)]).connections == 2
    with pytest.raises(StateError, match="no step"):
        knee([load(1, 200, failed=1)])


def test_replicas_take_seventy_percent_of_the_knee() -> None:
    found = scale(load(4, 700), usual=300, peak=2000, patience=0.1)
    assert found == Scale(concurrency=70, cpu=0.7, minimum=1, maximum=math.ceil(2000 / 490))


@pytest.mark.parametrize(("usual", "peak", "patience"), [(0, 1, 1), (2, 1, 1), (1, 2, 0)])
def test_impossible_rates_are_refused(usual: float, peak: float, patience: float) -> None:
    with pytest.raises(DeclarationError, match="must be positive"):
        scale(load(4, 700), usual, peak, patience)


def test_settings_are_kept_and_damage_is_named(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    assert read_scale(home, "flights") == Scale()
    found = scale(load(4, 700), usual=300, peak=2000, patience=0.1)
    write_scale(home, "flights", "subject", STEPS, found)
    assert read_scale(home, "flights") == found
    (tmp_path / "capacity" / "flights.json").write_text("{")
    with pytest.raises(StateError, match="run the load test again"):
        read_scale(home, "flights")
