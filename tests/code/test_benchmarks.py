"""The benchmarks of views, server and training say where a target is missed, and write it down."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORKS = ("ours", "polars", "pandas", "join", "day", "feast", "feast_twice", "whole")


def script(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its data classes look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of the feature views."""
    return script(monkeypatch, "features")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of the server."""
    return script(monkeypatch, "serving")


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark of the training loop."""
    return script(monkeypatch, "training")


def sizes(features: Any, **changed: float) -> dict[str, Any]:
    """Runs that meet every target but for what is changed, as factors of a contender's cost."""
    made = {}
    for name, years in features.YEARS.items():
        made[name] = features.Size(name, Path())
        for work in WORKS:
            cpu = {"day": 0.01, "feast": 5.0, "feast_twice": 10.0}.get(work, years) * changed.get(
                work, 1.0
            )
            rows = 20_000 if work == "feast" else 300_000 * years
            made[name].runs[work] = [{"cpu": cpu, "wall": cpu, "peak": 1.0, "rows": rows}]
    return made


def test_each_target_is_written_with_its_value(features: Any, tmp_path: Path) -> None:
    """CPU against polars at each size, Feast, memory, growth, the day."""
    assert features.report(sizes(features), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    limits = [target["limit"] for target in found["targets"]]
    assert limits == pytest.approx([1.2, 1.2, 1.2, 10, 4, 11, 11, 0.02])
    assert all(target["met"] for target in found["targets"])
    assert set(found["runs"]["10M"]) == set(WORKS)


@pytest.mark.parametrize(
    ("work", "factor", "name"),
    [
        ("ours", 1.3, "CPU of our views / polars, 10M"),
        ("feast_twice", 0.5001, "CPU a row of Feast's join / ours"),
        ("day", 100.0, "CPU of a day / of the whole build, 10M"),
    ],
)
def test_a_missed_target_is_named(
    features: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], work: str, factor: float,
    name: str,
) -> None:  # fmt: skip
    """With what was tried, where something was."""
    assert not features.report(sizes(features, **{work: factor}), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert name in [target["name"] for target in found if not target["met"]]
    said = capsys.readouterr().out
    assert any(name in line and line.endswith("MISSED") for line in said.splitlines())
    assert ("RANGE frames" in said) == (work == "ours")


def served(serving: Any, **changed: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rounds that meet every target but for what is changed, as factors of a figure."""
    speeds = {serving.OURS: 4.0, serving.OURS_V2: 4.0, serving.KSERVE_V2: 1.0}
    speeds |= dict.fromkeys(serving.PEERS, 1.0)
    runs: dict[str, Any] = {size: {} for size in serving.SIZES}
    for size in serving.SIZES:
        for name, speed in speeds.items():
            # A machine that is at half its speed in one round: what ran beside it tells.
            runs[size][name] = [
                {
                    "rps": speed * factor * changed.get(name, 1.0), "p50": 1.0, "p99": 2.0,
                    "cpu": 100.0, "failed": changed.get("failed", 0),
                }
                for factor in (100.0, 50.0, 100.0)
            ]  # fmt: skip
    log = {"recorded": 99.0, "dropped": changed.get("dropped", 0.0), "failed": 0.0}
    costs = {
        "forward": 10.0, "V1 vectors": 31.0, "V2 binary vectors": 29.0,
        "V1 entities, copied store": 45.0, "V1 entities, Redis": 60.0,
        "V1 vectors and bare HMGET": 50.0,
    }  # fmt: skip
    inproc = {
        size: {
            name: [{"cpu": cost * changed.get(name, 1.0), "thread": cost}] * 3
            for name, cost in costs.items()
        }
        for size in serving.SIZES
    }
    return {"runs": runs, "absent": {}, "model": "made up", "log": log}, inproc


def test_the_servers_targets_are_written_with_their_values(serving: Any, tmp_path: Path) -> None:
    """Each peer at each size; failures; the log; the parts in process."""
    assert serving.report(*served(serving), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    values = {target["name"]: target["value"] for target in found["targets"]}
    limits = {target["name"]: target["limit"] for target in found["targets"]}
    assert len(values) == 2 * 7 + 2 + 2 * 3
    assert limits["requests a second, ours V1 / kserve V1, batch 1"] == 3.5
    assert limits["requests a second, ours V1 / kserve V1, no logs, batch 1"] == 2.4
    assert values["requests a second, ours V1 / BentoML, batch 64"] == 4.0
    assert values["CPU of vectors, V1 or V2 binary / forward pass, batch 64"] == 2.9
    assert values["CPU of V1 entities, Redis / V1 vectors and bare HMGET, batch 1"] == 1.2
    assert len(found["sockets"]["runs"]["1"]) == 9


@pytest.mark.parametrize(
    ("work", "factor", "name"),
    [
        ("kserve V1", 1.2, "requests a second, ours V1 / kserve V1, batch 1"),
        ("FastAPI", 4.1, "requests a second, ours V1 / FastAPI, batch 64"),
        ("failed", 1, "requests that failed"),
        ("dropped", 1.0, "share of our answers that the log lost"),
        ("V2 binary vectors", 1.1, "CPU of vectors, V1 or V2 binary / forward pass, batch 1"),
        (
            "V1 entities, copied store", 1.1,
            "CPU of V1 entities, copied store / V1 vectors, batch 64",
        ),
    ],
)  # fmt: skip
def test_the_servers_missed_target_is_named(
    serving: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], work: str, factor: float,
    name: str,
) -> None:  # fmt: skip
    """On the page and in the file."""
    assert not serving.report(*served(serving, **{work: factor}), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert name in [target["name"] for target in found if not target["met"]]
    said = capsys.readouterr().out
    assert any(name in line and line.endswith("MISSED") for line in said.splitlines())


def test_a_peer_that_could_not_be_measured_is_a_missed_target(
    serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With why; the others are measured all the same."""
    sockets, inproc = served(serving)
    for runs in sockets["runs"].values():
        del runs["MLServer"]
    sockets["absent"]["MLServer"] = "no such wheel"
    assert not serving.report(sockets, inproc, None)
    said = capsys.readouterr().out
    assert "NOT MEASURED: MLServer: no such wheel" in said
    missed = [line for line in said.splitlines() if line.endswith("MISSED")]
    assert len(missed) == 2
    assert all("MLServer" in line and "none" in line for line in missed)


def trained(training: Any, **changed: float) -> dict[str, Any]:
    """Figures that meet every target but for what is changed, as factors of a cost."""
    costs = {"floor": 1.0, "ours": 1.05, "ours, 2 ranks": 1.5, **dict.fromkeys(training.PEERS, 1.4)}
    runs = {
        # A machine that is at half its speed in one round: what ran beside it tells.
        str(size): {
            name: [
                dict.fromkeys(("wall", "cpu"), cost * factor * changed.get(name, 1.0))
                for factor in (1e-5, 2e-5, 1e-5)
            ]
            for name, cost in costs.items()
        }
        for size in training.SIZES
    }
    saves = {
        "ours, held up": 0.002, "ours, whole": 0.06, "torch.save": 0.01, "DCP save": 0.05,
    }  # fmt: skip
    return {
        "loops": {"runs": runs, "absent": {}},
        "canaries": blocks(0.2, 0.001 * changed.get("canaries", 1)),
        "checkpoints": blocks(1.0, 0.05 * changed.get("checkpoints", 1)),
        **{
            size: {
                "runs": {k: [{"wall": v * changed.get(k, 1)}] * 3 for k, v in saves.items()},
                "parameters": parameters, "tensors": 97,
            }
            for size, parameters in (("demo", 176_955), ("large", 50_000_000))
        },
        "mlflow": [
            {"MLflow's start": {"cpu": 3.0}, "record": {"cpu": 0.2 * changed.get("record", 1)}}
        ] * 3,
    }  # fmt: skip


def blocks(without: float, more: float) -> list[dict[str, float]]:
    """Three pairs of blocks, one of them beside something else."""
    costs = [without + more, without, 3 * without + more, 3 * without, without + more, without]
    return [{"wall": cost, "cpu": cost} for cost in costs]


def test_the_loops_targets_are_written_with_their_values(training: Any, tmp_path: Path) -> None:
    """The floor and each peer at each size, saves, and what canaries, checkpoints, MLflow add."""
    assert training.report(trained(training), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    values = {target["name"]: target["value"] for target in found["targets"]}
    assert len(values) == 2 * 2 * 4 + 2 * 2 + 4
    assert values["CPU a row of ours / floor, batch 1024"] == pytest.approx(1.05)
    assert values["time a row of ours / Lightning, batch 4096"] == pytest.approx(0.75)
    assert values["held up by a save / torch.save, 0.2M parameters"] == pytest.approx(0.2)
    assert values["CPU of canaries / of a step"] == pytest.approx(0.005)
    # Six epochs of 120 steps, 20 in a block of a second; five hidden saves and one waited for.
    lost = (5 * 0.05 + 0.06) / 36
    assert values["time that checkpoints take / run"] == pytest.approx(lost)
    assert values["CPU of MLflow's record / run"] == pytest.approx(0.2 / (0.05 * 720))
    assert set(found) >= {"loops", "canaries", "checkpoints", "demo", "large", "mlflow"}


@pytest.mark.parametrize(
    ("work", "factor", "name"),
    [
        ("ours", 1.25, "CPU a row of ours / floor, batch 4096"),
        ("Lightning", 0.74, "time a row of ours / Lightning, batch 1024"),
        ("ours, held up", 1.6, "held up by a save / torch.save, 50.0M parameters"),
        ("canaries", 2.1, "CPU of canaries / of a step"),
        ("checkpoints", 3.0, "time that checkpoints take / run"),
        ("record", 2.0, "CPU of MLflow's record / run"),
    ],
)
def test_the_loops_missed_target_is_named(
    training: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], work: str, factor: float,
    name: str,
) -> None:  # fmt: skip
    """On the page and in the file."""
    assert not training.report(trained(training, **{work: factor}), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert name in [target["name"] for target in found if not target["met"]]
    said = capsys.readouterr().out
    assert any(name in line and line.endswith("MISSED") for line in said.splitlines())


def test_lightning_that_cannot_be_installed_is_a_missed_target(
    training: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With why; the others are measured all the same."""
    found = trained(training)
    for runs in found["loops"]["runs"].values():
        del runs["Lightning"]
    found["loops"]["absent"]["Lightning"] = "no such wheel"
    assert not training.report(found, None)
    said = capsys.readouterr().out
    assert "NOT MEASURED: Lightning: no such wheel" in said
    missed = [line for line in said.splitlines() if line.endswith("MISSED")]
    assert len(missed) == 4
    assert all("Lightning" in line and "none" in line for line in missed)
