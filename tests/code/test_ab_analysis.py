"""From tables to words: which units count, when no conclusion may be drawn, what each rule says."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from experiment_helpers import experiment

from feature_repo.errors import SourceError
from feature_repo.home import Home
from serving.assignment import assign
from serving.experiment import Experiment
from tasks import ab_data, ab_report
from tasks.ab_analysis import Analysis, analyse
from tasks.ab_test import write_report

END = datetime(2026, 12, 2, tzinfo=timezone.utc)
UNITS = 6000


def tables(
    declared: Experiment, effect: float = 0.0, units: int = UNITS, seed: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Exposures spread evenly over the experiment, one outcome an hour after each."""
    rng = np.random.default_rng(seed)
    names = [f"N{number}" for number in range(units)]
    arms = [assign(declared, name) for name in names]
    part = (declared.end - declared.start) / units
    exposed = pd.to_datetime([declared.start + k * part for k in range(units)]).as_unit("us")
    treated = np.array([arm != declared.arms[0].name for arm in arms])
    wrong = (rng.random(units) < 0.237 + effect * treated).astype(float)
    outcomes = pd.DataFrame(
        {"unit": names, "at": exposed + timedelta(hours=1), "wrong": wrong,
         "delay": rng.normal(0, 10, units)}
    )  # fmt: skip
    return pd.DataFrame({"unit": names, "arm": arms, "exposed_at": exposed}), outcomes


def told(declared: Experiment, effect: float, at: datetime = END, **more: Any) -> Analysis:
    return analyse(declared, *tables(declared, effect, **more), at)


def test_a_lost_part_of_an_arm_stops_every_conclusion() -> None:
    """6 % of the treatment's exposures lost: no figure is told."""
    declared = experiment()
    exposures, outcomes = tables(declared, 0.3)
    lost = (exposures["arm"] == "treatment") & (exposures.index % 10 == 0)
    analysis = analyse(declared, exposures[~lost], outcomes, END)
    assert not analysis.comparable
    assert analysis.findings == ()
    assert ab_report.headline(analysis).startswith("No conclusion may be drawn: the exposed units")
    assert "shown" not in ab_report.page(analysis)
    assert analyse(declared, exposures, outcomes, END).comparable


def test_outcomes_missing_in_one_arm_stop_every_conclusion() -> None:
    declared = experiment()
    exposures, outcomes = tables(declared)
    gone = exposures["unit"][(exposures["arm"] == "treatment") & (exposures.index % 20 == 0)]
    analysis = analyse(declared, exposures, outcomes[~outcomes["unit"].isin(gone)], END)
    assert "units without an outcome" in ab_report.headline(analysis)
    both = analyse(declared, exposures, outcomes[outcomes.index % 20 > 0], END)
    assert both.comparable
    assert both.findings[0].units == UNITS * 19 // 20


def test_only_outcomes_in_the_window_of_units_whose_window_is_over_count() -> None:
    declared = experiment(window_hours=2)
    exposures, outcomes = tables(declared)
    noise = [outcomes.assign(at=outcomes["at"] + timedelta(hours=h), wrong=99.0) for h in (-2, 2)]
    at = datetime(2026, 11, 16, tzinfo=timezone.utc)
    plain = analyse(declared, exposures, outcomes, at)
    noisy = analyse(declared, exposures, pd.concat([outcomes, *noise]), at)
    assert noisy.findings == plain.findings
    due = (exposures["exposed_at"] + timedelta(hours=2) <= at).sum()
    assert plain.findings[0].units == due < UNITS


def test_a_repeated_exposure_is_one_and_two_arms_are_an_error() -> None:
    declared = experiment()
    exposures, outcomes = tables(declared)
    again = exposures.assign(exposed_at=exposures["exposed_at"] + timedelta(minutes=5))
    twice = analyse(declared, pd.concat([again, exposures]), outcomes, END)
    assert twice == analyse(declared, exposures, outcomes, END)
    other = exposures.head(1).assign(
        arm="treatment" if exposures["arm"][0] == "control" else "control"
    )
    with pytest.raises(SourceError, match="1 units met more than one arm"):
        analyse(declared, pd.concat([exposures, other]), outcomes, END)
    with pytest.raises(SourceError, match="arm other is none of"):
        analyse(declared, exposures.assign(arm="other"), outcomes, END)


def test_each_rule_says_what_was_and_was_not_shown() -> None:
    one, five, always = (experiment(looks=k, planned_units=UNITS) for k in (1, 5, 0))
    words = ab_report.headline(told(one, 0.08))
    assert "shown: the treatment is higher: +0.0" in words
    assert "fixed horizon" in words
    words = ab_report.headline(told(one, 0.0))
    assert "not significant" in words
    assert "includes zero. This does not show that the arms are equal" in words
    words = ab_report.headline(told(five, 0.08))
    assert "shown" in words
    assert "planned look" in words
    words = ab_report.headline(told(always, 0.08))
    assert "shown" in words
    assert "any-time" in words
    same = experiment(
        looks=1, metrics=[{"name": "delay", "numerator": "delay", "mde": 2, "primary": True}]
    )
    assert "equivalent in that sense" in ab_report.headline(told(same, 0.0))


def test_a_peek_before_the_first_look_tells_the_any_time_interval_only() -> None:
    declared = experiment(looks=2, planned_units=UNITS)
    peek = told(declared, 0.5, at=datetime(2026, 11, 12, tzinfo=timezone.utc))
    assert peek.findings[0].looks == ()
    assert all(finding.fixed is None for finding in peek.findings)
    words = ab_report.headline(peek)
    assert "no verdict before the planned look of 2026-11-17 00:00" in words
    assert "any-time interval +0.3" in words
    assert "shown:" not in words
    secondary = ab_report.verdict(peek, peek.findings[1])
    assert "no verdict before the end" in secondary


def test_a_look_does_not_change_when_later_data_come() -> None:
    declared = experiment(looks=4, planned_units=UNITS)
    early = told(declared, 0.03, at=declared.look_times[1]).findings[0].looks
    late = told(declared, 0.03).findings[0].looks
    assert len(early) == 2
    assert len(late) == 4
    for before, after in zip(early, late, strict=False):
        assert before.z == pytest.approx(after.z, rel=1e-9)
        assert before.boundary == after.boundary


def test_treatments_share_the_level_and_secondary_metrics_are_corrected() -> None:
    arms = [
        {"name": n, "version": "1", "weight": w} for n, w in (("a", 0.4), ("b", 0.3), ("c", 0.3))
    ]
    declared = experiment(arms=arms, looks=1)
    analysis = told(declared, 0.08)
    assert [(f.treatment, f.metric.name) for f in analysis.findings] == [
        ("b", "wrong"), ("b", "delay"), ("c", "wrong"), ("c", "delay")
    ]  # fmt: skip
    assert {f.alpha for f in analysis.findings} == {0.025}
    assert all(f.fixed is not None for f in analysis.findings)
    assert all(f.fixed.stands for f in analysis.findings if f.fixed and f.metric.primary)


def test_files_are_read_and_their_faults_named(tmp_path: Path) -> None:
    exposures, outcomes = tables(experiment())
    exposures.to_csv(tmp_path / "exposures.csv", index=False)
    outcomes.to_parquet(tmp_path / "outcomes.parquet")
    read = ab_data.read_frame(str(tmp_path / "exposures.csv"), ["unit", "arm", "exposed_at"])
    pd.testing.assert_frame_equal(read, exposures)
    same = ab_data.read_frame(str(tmp_path / "outcomes.parquet"), ["unit", "wrong"])
    pd.testing.assert_frame_equal(same, outcomes)
    with pytest.raises(SourceError, match="column late is missing; it has unit, at, wrong"):
        ab_data.read_frame(str(tmp_path / "outcomes.parquet"), ["unit", "late"])
    with pytest.raises(SourceError, match="cannot be read"):
        ab_data.read_frame(str(tmp_path / "none.csv"), ["unit"])
    exposures.assign(exposed_at="soon").to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(SourceError, match="column exposed_at holds no ISO instant"):
        ab_data.read_frame(str(tmp_path / "bad.csv"), ["unit", "exposed_at"])


def test_a_unit_s_name_is_no_number(tmp_path: Path) -> None:
    declared = experiment()
    exposures, outcomes = tables(declared)
    names = [f"{number:05d}" for number in range(UNITS)]
    arms = [assign(declared, name) for name in names]
    exposures, outcomes = exposures.assign(unit=names, arm=arms), outcomes.assign(unit=names)
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    read = ab_data.read_frame(str(tmp_path / "outcomes.csv"), ["unit", "wrong"])
    assert read["unit"].tolist() == names
    assert analyse(declared, exposures, read, END).findings[0].units == UNITS
    strangers = analyse(declared, exposures, read.assign(unit="x" + read["unit"]), END)
    assert "Do they name units as the exposures do?" in ab_report.headline(strangers)
    outcomes.assign(unit=1.0).to_parquet(tmp_path / "outcomes.parquet")
    with pytest.raises(SourceError, match="column unit holds fractions"):
        ab_data.read_frame(str(tmp_path / "outcomes.parquet"), ["unit"])


def test_exposures_outside_of_the_declared_time_do_not_count() -> None:
    declared = experiment()
    exposures, outcomes = tables(declared)
    exposures.loc[exposures.index < 100, "exposed_at"] = declared.start - timedelta(days=9)
    exposures.loc[exposures.index >= UNITS - 100, "exposed_at"] = declared.end
    analysis = analyse(declared, exposures, outcomes, END)
    assert sum(analysis.exposed.counts) == UNITS - 200


def test_the_report_s_figures_are_json_before_anything_is_known(tmp_path: Path) -> None:
    declared = experiment()
    early = told(declared, 0.0, declared.start + declared.window + timedelta(minutes=30))
    path = write_report(Home(root=tmp_path), early).with_suffix(".json")
    (first, *_) = orjson.loads(path.read_bytes())["findings"]
    assert first["anytime"] == {"low": None, "high": None}
