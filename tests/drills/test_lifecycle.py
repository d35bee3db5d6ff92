"""One pipeline from end to end, and what a person does with its result."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import ROOT, Done, Flown

from serving import certificate, ledger
from tasks.ledger import own_trust
from tasks.summary import render


def test_summary_says_what_came_of_the_run(flown: Flown) -> None:
    """The report of a run that ended well, read as a program would."""
    summary = flown.summary
    assert summary["rows_read"] == 26_115
    assert summary["rows_quarantined"] == 1
    assert summary["training_rows"] > 19_000
    assert summary["test"]["rmse"] < summary["constant"]["rmse"]
    assert summary["test"]["rmse"] < summary["reference"]["rmse"]
    assert summary["gate"]["passed"]
    assert all(verdict["passed"] for verdict in summary["gate"]["verdicts"])
    assert summary["model"]["version"] == "1.0.0"
    assert summary["model"]["released"]
    assert summary["model"]["served"] == "1.0.0"
    rolled_back = summary | {"model": summary["model"] | {"served": "0.9.0"}}
    assert "model 1.0.0 certified and released, but 0.9.0 is served" in render(rolled_back)
    assert Path(summary["card"]).exists()
    assert Path(summary["manifest"]).exists()
    assert [step["name"] for step in summary["steps"]] == [
        "ingest", "features", "training set", "feast", "train", "export", "evaluate", "gate",
        "card", "certify", "register", "materialise", "release", "promote",
    ]  # fmt: skip
    assert not any(step["cached"] for step in summary["steps"])
    assert all(step["seconds"] >= 0 for step in summary["steps"])


def test_certificate_covers_the_model_that_was_released(flown: Flown) -> None:
    """The summary's certificate is the one in the model's folder, and it verifies."""
    home, summary = flown.place.home, flown.summary
    issued = certificate.read(Path(summary["model"]["path"]))
    assert issued.id == summary["certificate"]["id"]
    assert issued.path == Path(summary["certificate"]["path"])
    assert issued.predicate["version"] == "1.0.0"
    assert issued.predicate["gate"]["passed"]
    before = [step["name"] for step in summary["steps"]]
    assert set(issued.predicate["cost"]["steps"]) == set(before[: before.index("certify")])
    assert ledger.verify(home, own_trust(home)) == ledger.entries(home)


def test_terminal_shows_progress_and_summary(flown: Flown) -> None:
    """A person sees each step as it ends, and the table at the end."""
    said = flown.done.said
    for line in ("[ingest] 26,115 rows read", "[train] epoch 1/", "[release] 3 requests"):
        assert line in said, said
    assert "=== weather: model 1.0.0 certified and released ===" in said
    assert "make serve USE_CASE=weather (version 1.0.0)" in said
    assert "leaked" not in said


OWN = ("feature_repo/weather", "tasks/weather.py", "workflows/weather.py")
LINE = "from feature_repo.weather.features import WEATHER\n"
IMPORT_ALL = """
import importlib, pathlib
for room in ("feature_repo", "serving", "tasks", "workflows"):
    for path in sorted(pathlib.Path(room).rglob("*.py")):
        try:
            found = importlib.import_module(".".join(path.with_suffix("").parts))
        except ModuleNotFoundError as exc:
            assert exc.name == "flytekitplugins.spark", exc  # an extra
            continue
        assert pathlib.Path(found.__file__).is_relative_to(pathlib.Path.cwd()), found.__file__
from feature_repo.registry import USE_CASES, get_use_case
print(get_use_case("flights").name, *USE_CASES)
"""


@pytest.fixture
def without_weather(tmp_path: Path) -> Path:
    """A copy of the platform without weather's own files and its one line in the registry."""
    for name in ("feature_repo", "serving", "tasks", "workflows", "deploy"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.rmtree(tmp_path / OWN[0])
    for name in OWN[1:]:
        (tmp_path / name).unlink()
    registry = tmp_path / "feature_repo" / "registry.py"
    text = registry.read_text()
    assert text.count(LINE) == 1
    registry.write_text(text.replace(LINE, ""))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([sys.executable, "-c", IMPORT_ALL], "flights flights\n"),
        (["lint-imports", "--no-cache"], "0 broken"),
        (["ruff", "check", "."], "All checks passed!"),
    ],
)
def test_the_platform_stands_without_weather(
    without_weather: Path, command: list[str], said: str
) -> None:
    """Everything imports, the import contracts hold, flights is there."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=without_weather, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout


def test_nothing_but_that_line_names_weather(without_weather: Path) -> None:
    """In code, packaging and deployment; flights has a weather table, in files of its own."""
    flights = ("feature_repo/flights/", "tasks/flights.py", "workflows/flights.py")
    named = re.compile(r"[\"'./_:]weather|weather[\"'./_:]|WEATHER")
    lines = {
        f"{name}: {line}"
        for path in without_weather.rglob("*")
        if path.is_file()
        and not (name := path.relative_to(without_weather).as_posix()).startswith(flights)
        for line in path.read_text().splitlines()
        if named.search(line)
    }
    assert lines == set()


def test_network_is_the_use_case_s_own(flown: Flown) -> None:
    """The served graph comes from weather's own builder, not from the platform's."""
    model = json.loads((Path(flown.summary["model"]["path"]) / "model.json").read_text())
    assert model["architecture"] == "residual_mlp"
    assert "residual_mlp" not in (ROOT / "serving" / "network.py").read_text()


@pytest.fixture(scope="module")
def audited(flown: Flown) -> Done:
    """The audit of a prediction and of the model's history, in one run."""
    return flown.place.run(
        "audit:audit", "--prediction_id", flown.summary["prediction_id"], "--model", "weather"
    )


def test_audit_reaches_the_raw_file(flown: Flown, audited: Done) -> None:
    """From the id of an answer to the digest of the file that it was learned from."""
    assert audited.code == 0, audited.said
    assert flown.summary["prediction_id"] in audited.said
    assert f"certificate  {flown.summary['certificate']['id']}: verified" in audited.said
    raw = re.search(r"raw file +weather\.csv\S*, [\d,]+ bytes, sha256 ([0-9a-f]{64})", audited.said)
    assert raw, audited.said
    issued = certificate.read(Path(flown.summary["model"]["path"]))
    assert [s["sha256"] for s in issued.predicate["data"]["sources"]] == [raw[1]]
    assert "CHANGED" not in audited.said


def test_audit_tells_the_history(flown: Flown, audited: Done) -> None:
    """Who has been champion since when."""
    assert "champions of weather:" in audited.said
    line = next(part for part in audited.said.splitlines() if " to now " in part)
    assert "1.0.0" in line
    assert flown.summary["certificate"]["id"] in line


def test_its_training_set_is_rebuilt(flown: Flown) -> None:
    """The table that the certificate names, whole, from the stored version of the features."""
    issued = certificate.read(Path(flown.summary["model"]["path"]))
    done = flown.place.run(
        "features:training_set_of", "--use_case", "weather", "--version", "1.0.0"
    )
    assert done.code == 0, done.said
    assert f"tables/{issued.predicate['training']['table']}" in done.said


def test_audit_of_an_unknown_prediction_fails_by_name(flown: Flown) -> None:
    """The id that was asked for is in the message, and the exit code says failure."""
    done = flown.place.run("audit:audit", "--prediction_id", "pred-unknown")
    assert done.code != 0
    assert "no prediction 'pred-unknown'" in done.said
