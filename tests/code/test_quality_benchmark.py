"""The benchmark of quality says who is ahead, and only where the paired interval says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_benchmarks import script
from toy import TOY, toy_rows

from benchmarks.quality_work import tuning
from feature_repo.tables import Table
from tasks.rows import labelled_rows


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark."""
    return script(monkeypatch, "quality")


def scored(quality: Any, noise: dict[str, float]) -> tuple[Any, dict[str, list[Any]]]:
    """Toy rows, and scores of two seeds a contender: the label's log-odds with some noise."""
    rows = labelled_rows(TOY, toy_rows(), "test")
    data = quality.contenders.Data(
        use_case=TOY, table=Table("training_set", "", "", "", 0), parts={"test": rows}
    )
    rng = np.random.default_rng(0)
    raw = 2.0 * rows.target - 1.0 + rng.normal(0, 1, len(rows))
    scores = {
        name: [1 / (1 + np.exp(-raw - rng.normal(0, size, len(rows)))) for _ in range(2)]
        for name, size in noise.items()
    }
    scores[quality.CONSTANT] = [np.full(len(rows), rows.target.mean())]
    return data, scores


def test_the_quick_form_gives_no_verdict(quality: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It says so before it trains anything."""
    with pytest.raises(SystemExit):
        quality.main(["--quick", "--check"])
    assert "leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("noise", "met"),
    [((0.1, 1.0), [True, True]), ((1.0, 0.1), [False, False]), ((0.5, 0.5), [False, False])],
)
def test_tabm_is_ahead_where_both_intervals_say_so(
    quality: Any, tmp_path: Path, noise: tuple[float, float], met: list[bool]
) -> None:
    """Ahead, behind, alike; every figure is written."""
    made = scored(quality, dict(zip((quality.TABM, quality.LIGHTGBM), noise, strict=True)))
    found = quality.measured(*made)
    assert quality.report(*found, {"seeds": 2}, tmp_path / "out.json") == all(met)
    told = json.loads((tmp_path / "out.json").read_text())
    assert [target["met"] for target in told["targets"]] == met
    assert all(target["low"] < target["value"] < target["high"] for target in told["targets"])
    assert len(told["figures"]["TabM"]["auc"]) == 2
    assert told["figures"]["constant"]["auc"] == [0.5]


def test_lightgbm_has_the_best_of_its_trials() -> None:
    """All drawn, on the same rows, best first; its defaults are among them."""
    told = tuning.trials()
    assert len(told) == tuning.DRAWS
    assert [trial.log_loss for trial in told] == sorted(trial.log_loss for trial in told)
    assert len({trial.rows for trial in told}) == 1
    assert [trial.parameters for trial in told if len(trial.parameters) == 1]
