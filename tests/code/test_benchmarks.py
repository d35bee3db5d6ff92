"""The benchmark of the feature views says where a target is missed, and writes it down."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "features.py"
WORKS = ("ours", "polars", "pandas", "join", "day", "feast", "feast_twice", "whole")


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("features_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its data classes look it up
    spec.loader.exec_module(module)
    return module


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
