"""The training on a GPU: what holds on the CPU holds there. Skipped where there is none.

No case needs more than a training imports, so that the file runs alone on a machine with a GPU:

    PYTHONPATH=.:tests:tests/code pytest --noconftest tests/drills/test_gpu.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import TOY, toy_training_set
from training_helpers import SMALL, Job, StoppedError, finished, flown, process, same, weights

from feature_repo.errors import DivergedError
from feature_repo.home import Home
from feature_repo.tables import Table, read_table
from tasks import fit as fitting
from tasks.fit import Fitted, fit
from tasks.rows import labelled
from tasks.training import ranks
from tasks.training.parts import Parts, read_parts
from tasks.types import TrainingConfig
from tasks.watch.telemetry import METRICS, Machine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

TABM = TrainingConfig.from_dict(
    {"model": "tabm", "epochs": 3, "batch_size": 256, "width": 32, "members": 4, "seed": 7}
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


def on_cpu(monkeypatch: pytest.MonkeyPatch, table: Table, config: TrainingConfig) -> Fitted:
    """The same training as if there were no GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return fit(TOY, table, config, print)


@pytest.mark.parametrize("config", [SMALL, TABM], ids=["mlp", "tabm"])
def test_it_learns_what_the_cpu_learns(
    monkeypatch: pytest.MonkeyPatch, table: Table, config: TrainingConfig
) -> None:
    """In double precision and without dropout, which each device draws for itself."""
    exact = dataclasses.replace(config, precision="float64", dropout=0.0)
    here, there = fit(TOY, table, exact, print), on_cpu(monkeypatch, table, exact)
    assert {p.device.type for p in here.network.parameters()} == {"cuda"}
    assert {p.device.type for p in there.network.parameters()} == {"cpu"}
    for one, other in zip(here.curve, there.curve, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=1e-9)
    assert (here.slope, here.intercept) == pytest.approx((there.slope, there.intercept), abs=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [SMALL, TABM], ids=["mlp", "tabm"])
def test_stopped_and_gone_on_it_ends_with_the_same_weights(
    table: Table, tmp_path: Path, config: TrainingConfig, precision: str
) -> None:
    """To the last bit, dropout's random state and the best epoch's weights among it."""
    config = dataclasses.replace(config, precision=precision, dropout=0.2)
    whole = flown(Job(home=tmp_path / "whole", table=table, config=config))
    job = Job(home=tmp_path / "parts", table=table, config=config, every=3)
    for stop in (5, 11):
        with pytest.raises(StoppedError):
            flown(dataclasses.replace(job, stop_after=stop))
    said: list[str] = []
    assert same(weights(flown(job, said)), weights(whole))
    assert any("goes on from step" in line for line in said), said


def test_a_process_of_its_own_under_the_launcher(table: Table, tmp_path: Path) -> None:
    """As Elastic starts it; twice the same weights."""
    jobs = [Job(home=tmp_path / name, table=table, every=5) for name in ("one", "two")]
    one, two = (finished(job, job.home.with_suffix(".out")) for job in jobs)
    assert same(one["weights"], two["weights"])


def test_more_ranks_than_gpus_are_refused(table: Table, tmp_path: Path) -> None:
    """Two ranks on one GPU would wait for each other in NCCL; the error says what to do."""
    count = torch.cuda.device_count()
    with process(Job(home=tmp_path, table=table), tmp_path / "out", count + 1) as running:
        told, _ = running.communicate(timeout=300)
    assert running.returncode
    assert f"rank {count} of this machine has no GPU: there are {count}" in told


def test_a_bad_row_ends_it_with_all_that_is_known(
    monkeypatch: pytest.MonkeyPatch, table: Table, tmp_path: Path
) -> None:
    """The canaries look at ten steps at once here, and name the same row."""

    def broken(*told: Any, **more: Any) -> Parts:
        parts = read_parts(*told, **more)
        parts.training.target[5] = torch.nan
        return parts

    monkeypatch.setattr(fitting, "read_parts", broken)
    with pytest.raises(DivergedError) as caught:
        flown(Job(home=tmp_path, table=table, every=5))
    key = str(labelled(read_table(table), "training")["request_id"][5])
    for part in ("loss not finite", f"({key}", "last good step", "canary-0000"):
        assert part in str(caught.value)


def test_its_readings_bear_the_names_of_the_dcgm_exporter() -> None:
    """All that METRICS promises of a GPU, with values that a GPU has."""
    found = {r.name: r for r in Machine(print).readings() if r.name.startswith("DCGM_FI_DEV")}
    promised = {name for name in METRICS if name.startswith("DCGM_FI_DEV")}
    assert set(found) == promised
    used, free = found["DCGM_FI_DEV_FB_USED"].value, found["DCGM_FI_DEV_FB_FREE"].value
    properties = torch.cuda.get_device_properties(ranks.device())
    assert used + free == pytest.approx(properties.total_memory / 2**20, rel=0.05)
    assert found["DCGM_FI_DEV_FB_USED"].labels[3] == properties.name
    assert found["DCGM_FI_DEV_POWER_USAGE"].value > 10


def test_the_gpus_seconds_are_in_the_cost(table: Table) -> None:
    """A training that holds a GPU pays for it."""
    from tasks.training.meter import Meter

    with ranks.process_group() as rank:
        meter = Meter()
        fit(TOY, table, SMALL, print)
        assert meter.read(rank).gpu_seconds > 0
