"""Releases with real processes: a bad challenger never meets 5 % of the callers, a good one takes
over without one failed request.

The short form has the crashing, the uncertified and the good one; ``AIRWORTHY_LONG_DRILLS=1``
(``make drills``) adds the slow and the stale one, a crash in the midst of a canary, and kills. Run
with ``-s`` to see the seconds from harm to rollback.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rollout_helpers import (
    PLAN,
    Callers,
    challenger,
    home_with_champion,
    late_flights,
    looks,
    old_store,
    slow_challenger,
)
from serving_helpers import free_port

from feature_repo.errors import CertificateError, PromotionError
from feature_repo.home import Home
from serving import ledger
from serving.local_target import LocalTarget
from serving.releases import read_current
from serving.rollout_plan import Limits
from tasks import rollout
from tasks.ledger import own_trust
from tasks.promotion import promote_version, under_way
from tasks.registry import GATE, SUBJECT, VERSION
from tasks.rollout_report import content
from tasks.rollout_store import load
from tasks.tracking import client
from workflows import release as workflows

LONG = pytest.mark.skipif(
    not os.environ.get("AIRWORTHY_LONG_DRILLS"), reason="a long drill: AIRWORTHY_LONG_DRILLS=1"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return home_with_champion(tmp_path_factory.mktemp("rollout") / "home")


@pytest.fixture(autouse=True)
def _ours(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find the home."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))


@pytest.fixture(scope="module")
def target(home: Home) -> Iterator[LocalTarget]:
    """One champion's process behind one proxy, for all drills."""
    target = LocalTarget(home, "flights", free_port(), development=True)
    yield target
    target.stop()


def port_of(target: LocalTarget) -> int:
    return target._port


def pid_of(home: Home, role: str) -> int:
    (path,) = (home.root / "targets" / "flights").glob(f"{role}-*.pid")
    return int(path.read_text())


def told(home: Home, version: str) -> list[dict[str, object]]:
    entries = [e for e in ledger.verify(home, own_trust(home)) if e["kind"] == "rollout"]
    return [e["facts"] for e in entries if e["facts"]["version"] == version]


def test_an_uncertified_challenger_is_never_started(home: Home, target: LocalTarget) -> None:
    folder = challenger(home, "1.9.0", 0.41)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(CertificateError, match=r"changed: model.onnx"):
        rollout.begin(home, "flights", "1.9.0", PLAN, target)
    (folder / "certificate.json").unlink()
    with pytest.raises(PromotionError, match="no certificate"):
        rollout.begin(home, "flights", "1.9.0", PLAN, target)
    assert load(home, "flights") is None


def test_a_crashing_challenger_stays_in_the_shadow(home: Home, target: LocalTarget) -> None:
    challenger(home, "1.1.0", 0.42)
    rollout.begin(home, "flights", "1.1.0", replace(PLAN, requests=10**6), target)
    with Callers(port_of(target)).asking() as callers:
        os.kill(pid_of(home, "shadow"), signal.SIGKILL)
        harm = time.monotonic()
        over, made = looks(home, target)
    print(f"crashing: {time.monotonic() - harm:.1f} s from harm to rollback, {made[-1].words}")
    assert over.state.ended == "back"
    assert max(decision.percent for decision in made) == 0
    assert callers.failed == 0
    assert told(home, "1.1.0")[-1]["kind"] == "back"
    with pytest.raises(PromotionError, match="was rolled back"):
        rollout.begin(home, "flights", "1.1.0", PLAN, target)


def test_a_good_challenger_takes_over_without_a_failed_request(
    home: Home, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gate node, which flytekit asks about at the terminal when it runs here."""
    folder = challenger(home, "1.2.0", 0.43)
    register(home, folder, "1.2.0")
    monkeypatch.setattr("sys.stdin", io.StringIO("Ann\n"))
    began = time.monotonic()
    rollout.begin(home, "flights", "1.2.0", PLAN, target)  # the command goes on with it
    with Callers(port_of(target)).asking() as callers:
        stands = workflows.gated_rollout(
            model="flights", version="1.2.0", plan=PLAN, looks=300, pause_seconds=0.3,
            port=port_of(target),
        )  # fmt: skip
        before = callers.statuses[200]
        while callers.statuses[200] < before + 20:  # the new champion answers
            time.sleep(0.05)
    print(f"good: {time.monotonic() - began:.1f} s from shadow to champion, {callers.statuses}")
    assert stands == "flights 1.2.0 is champion"
    assert workflows.look(model="flights").over
    assert callers.failed == 0
    assert read_current(home, "flights") == (folder, "1.2.0")
    words = [str(facts["words"]) for facts in told(home, "1.2.0")]
    assert any("approved by Ann" in said for said in words)
    over = load(home, "flights")
    assert over is not None
    assert over.promoted
    assert "promoted" in content(over)


def test_a_promoted_challenger_is_taken_back_while_the_registry_is_down(
    home: Home, target: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Callers(port_of(target)).asking() as callers:
        began = time.monotonic()
        said = workflows.rollback(model="flights", reason="it was a Friday")
        print(f"rollback of a champion: {time.monotonic() - began:.1f} s, {said[:90]}")
    assert "1.0.0 is champion again" in said
    assert "registry does not answer" in said
    assert read_current(home, "flights")[1] == "1.0.0"
    assert callers.failed == 0
    count = len(ledger.entries(home))
    assert "no release is under way" in workflows.rollback(model="flights")
    assert len(ledger.entries(home)) == count


def test_nothing_else_is_promoted_while_a_release_is_under_way(
    home: Home, target: LocalTarget
) -> None:
    challenger(home, "1.2.1", 0.431)
    rollout.begin(home, "flights", "1.2.1", PLAN, target)
    with pytest.raises(PromotionError, match=r"1.2.1 is being released .*rollback --model flights"):
        promote_version(home, "flights", "1.2.0")
    assert rollout.look_once(home, "flights", target)[1].kind == "hold"
    assert Path(workflows.approve(model="flights", version="1.2.1", approver="Ann")).exists()
    assert "is rolled back" in rollout.roll_back(home, "flights", target, "the drill is over")
    assert under_way(home, "flights", "1.2.0") == ""


@LONG
def test_a_slow_challenger_stays_in_the_shadow(home: Home, target: LocalTarget) -> None:
    slow_challenger(home, "1.3.0")
    limits = Limits(slow_seconds=0.05)
    plan = replace(PLAN, requests=10**6, limits=limits)
    harm = time.monotonic()
    rollout.begin(home, "flights", "1.3.0", plan, target)
    with Callers(port_of(target)).asking() as callers:
        over, made = looks(home, target)
    print(f"slow: {time.monotonic() - harm:.1f} s from its start to rollback, {made[-1].words}")
    assert over.state.ended == "back"
    assert "slow" in made[-1].words
    assert max(decision.percent for decision in made) == 0
    assert callers.failed == 0


@LONG
def test_a_challenger_with_stale_features_stays_in_the_shadow(
    home: Home, target: LocalTarget, tmp_path: Path
) -> None:
    challenger(home, "1.4.0", 0.44)
    stale = {"AIRWORTHY_ONLINE_STORE": old_store(home, tmp_path / "old")}
    theirs = LocalTarget(
        home, "flights", port_of(target), development=True, environments={"shadow": stale}
    )
    rollout.begin(home, "flights", "1.4.0", replace(PLAN, requests=10**6), theirs)
    harm = time.monotonic()
    with Callers(port_of(target)).asking() as callers:
        over, made = looks(home, theirs)
    print(f"stale: {time.monotonic() - harm:.1f} s from harm to rollback, {made[-1].words}")
    assert over.state.ended == "back"
    assert max(decision.percent for decision in made) == 0
    assert callers.failed == 0


@LONG
def test_a_crash_in_a_canary_costs_no_caller_an_answer(home: Home, target: LocalTarget) -> None:
    challenger(home, "1.5.0", 0.45)
    plan = replace(PLAN, steps=(25, 50, 100))
    rollout.begin(home, "flights", "1.5.0", plan, target)
    with Callers(port_of(target)).asking() as callers:
        while rollout.look_once(home, "flights", target)[0].state.step == 0:
            time.sleep(0.3)
        # A killed look: another object goes on from what is on disk.
        again = LocalTarget(home, "flights", port_of(target), development=True)
        rollout.begin(home, "flights", "1.5.0", plan, again)
        os.kill(pid_of(home, "canary"), signal.SIGKILL)
        harm = time.monotonic()
        over, made = looks(home, again)
    print(f"crash in a canary: {time.monotonic() - harm:.1f} s to rollback, {made[-1].words}")
    assert over.state.ended == "back"
    assert callers.failed == 0


@LONG
def test_a_look_killed_anywhere_is_made_good_by_the_next(home: Home, target: LocalTarget) -> None:
    """Killed at every 40th line, again and again: each decision is told once, and traffic is as
    the state says."""
    challenger(home, "1.6.0", 0.46)
    plan = replace(PLAN, requests=1, pairs=1)
    rollout.begin(home, "flights", "1.6.0", plan, target)
    modules = "tasks.rollout tasks.rollout_store serving.local_target serving.proxy"
    with Callers(port_of(target)).asking() as callers:
        time.sleep(2)
    # In a process of its own: a fork of this one, whose libraries have threads, could hang.
    script = (
        "import sys\nfrom killing import killed_at\nfrom feature_repo.home import open_home\n"
        "from serving.local_target import LocalTarget\nfrom tasks import rollout\n"
        "home = open_home(sys.argv[1])\n"
        "target = LocalTarget(home, 'flights', 0, development=True)\n"
        "look, line = lambda: rollout.look_once(home, 'flights', target), 1\n"
        "while killed_at(line, sys.argv[2], look):\n    line += 40\n"
        "print(line // 40)\n"
    )
    helpers = Path(__file__).parent.parent / "code"
    kills = subprocess.check_output(
        [sys.executable, "-c", script, str(home.root), modules], cwd=helpers, text=True, timeout=300
    )
    over = load(home, "flights")
    assert over is not None
    print(
        f"{kills.strip()} kills, {len(over.state.decisions)} decisions, at step {over.state.step}"
    )
    assert [facts["look"] for facts in told(home, "1.6.0")] == [
        n + 1 for n in range(len(over.state.decisions))
    ]
    assert callers.failed == 0
    assert "is rolled back" in rollout.roll_back(home, "flights", target, "the drill is over")


def test_a_challenger_that_is_wrong_more_often_goes_back_once_outcomes_come(
    home: Home, target: LocalTarget
) -> None:
    """It answers well and fast, and its scores are the champion's: only labels tell."""
    challenger(home, "1.7.0", 0.999)  # no flight is late, it says
    rollout.begin(home, "flights", "1.7.0", replace(PLAN, requests=10**6), target)
    with Callers(port_of(target)).asking() as callers:
        assert rollout.look_once(home, "flights", target)[1].kind == "hold"
        late_flights(home, 5_000)
        came = time.monotonic()
        over, made = looks(home, target)
    print(f"outcomes: {time.monotonic() - came:.1f} s from labels to rollback, {made[-1].words}")
    assert over.state.ended == "back"
    assert "mistakes" in made[-1].words
    assert max(decision.percent for decision in made) == 0
    assert callers.failed == 0


def register(home: Home, folder: Path, version: str) -> None:
    """In MLflow, as the pipeline does."""
    mlflow = client(home)
    mlflow.create_registered_model("flights")
    tags = {SUBJECT: folder.name, VERSION: version, GATE: "passed"}
    mlflow.create_model_version("flights", source=str(folder), tags=tags)
