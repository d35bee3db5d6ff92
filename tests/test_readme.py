"""Every command of the README is one that exists, with the options that it names."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from message_helpers import first_version, row

from feature_repo.home import open_home
from feature_repo.inbox import Received
from feature_repo.registry import get_use_case
from serving.certificate import read
from serving.predictions import find
from serving.releases import read_current
from tasks.probe import server

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
PYFLYTE = [line for line in LINES if line.startswith(".venv/bin/pyflyte run")]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make (\w+)", TEXT))))
def test_make_targets_exist(target: str) -> None:
    """Each ``make`` command of the text is a target."""
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_serve_takes_a_use_case() -> None:
    """``make serve USE_CASE=weather``, as the text says."""
    said = subprocess.check_output(
        ["make", "--dry-run", "serve", "USE_CASE=weather"], cwd=ROOT, text=True
    )
    assert "--use-case weather --champion" in said
    assert "make serve USE_CASE=weather" in TEXT


def test_a_message_is_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of Python take a message in, as they stand."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(first_version(tmp_path).root))
    (lines,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    names: dict[str, object] = {"row": row() | {"time_hour": hour}, "now": now}
    exec(lines, names)  # noqa: S102 -- our own text
    assert names["received"] == Received(accepted=1, refused=())


def test_every_line_is_known() -> None:
    """No command stands in the README that no test looks at."""
    known = ("make ", ".venv/bin/pyflyte ", "curl ", '  "')
    assert [line for line in LINES if not line.startswith(known)] == []


def test_workflows_take_the_options_named() -> None:
    """Each ``pyflyte run`` names a workflow of its file, and options of that workflow."""
    assert len(PYFLYTE) >= 8
    script = (
        "import importlib, json, sys\n"
        "for path, name in json.load(sys.stdin):\n"
        "    module = importlib.import_module(path[:-3].replace('/', '.'))\n"
        "    print(json.dumps(sorted(getattr(module, name).python_interface.inputs)))\n"
    )
    commands = [shlex.split(line, comments=True) for line in PYFLYTE]

    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([words[2:4] for words in commands]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for words, line in zip(commands, done.stdout.splitlines(), strict=True):
        options = {word[2:] for word in words if word.startswith("--")}
        assert options <= set(json.loads(line)), words


def test_files_named_exist() -> None:
    """Each path in backticks or a link is there (placeholders and outputs apart)."""
    named = re.findall(r"`((?:feature_repo|tasks|workflows|serving|deploy|docs)/[\w/.]+)`", TEXT)
    named += re.findall(r"\]\((docs/[\w/.]+)\)", TEXT)
    assert len(named) >= 5
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_variable_that_is_read_stands_in_the_table() -> None:
    """And only the two modules that the text names read any."""
    read: dict[str, set[str]] = {}
    for room in ("feature_repo", "serving", "tasks", "workflows"):
        for path in (ROOT / room).rglob("*.py"):
            found = re.findall(r"(?:environ(?:\.get)?|getenv)[(\[]\s*\"(\w+)", path.read_text())
            # The launcher of a distributed training sets these two, not a user.
            if set(found) - {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}:
                read[str(path.relative_to(ROOT))] = set(found)
    assert set(read) == {"feature_repo/home.py", "tasks/resources.py"}
    table = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `[A-Z_`, ]+ \|", TEXT, re.MULTILINE)))
    )
    assert set.union(*read.values()) == table


def test_the_question_is_answered() -> None:
    """The README's curl, asked of a real server of the model that ``make demo`` released."""
    home = open_home()
    if not (home.root / "releases" / "flights" / "current.json").exists():
        pytest.skip(f"no released flights model in {home.root}: run 'make demo' first")
    body = re.search(r"-d '(\{.*?\})'\n", TEXT, flags=re.DOTALL)
    assert body is not None
    folder, version = read_current(home, "flights")
    if read(folder).predicate["features"]["declaration"] != get_use_case("flights").declaration:
        pytest.skip(f"{home.root} holds a model of an older declaration: run 'make demo' first")
    development = read(folder).development
    with server(home, "flights", folder, development) as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/flights:predict",
            data=body[1].encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.loads(answer.read())
    (prediction,) = said["predictions"]
    assert said["version"] == version
    assert said["certificate"] == read(folder).id
    assert 0 < prediction["probability"] < 1
    assert prediction["tick"] == "2013-12-31T18:45:00+00:00"
    assert set(prediction["ages_minutes"]) == {v.name for v in get_use_case("flights").views}
    found = find(home, prediction["prediction_id"])
    assert found is not None
    assert found.score == prediction["probability"]
