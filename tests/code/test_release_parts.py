"""A release's parts that need no process: the proxy's configuration and log, approvals, books."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from certificate_helpers import Made

from feature_repo.errors import CertificateError, DeclarationError, PromotionError
from feature_repo.home import Home
from serving import approvals, ledger
from serving.processes import WORD
from serving.proxy import Routes, read_log, render
from serving.rollout_evidence import by_request, settled
from serving.rollout_plan import Decision, Plan, State, Traffic
from tasks.ledger import own_trust
from tasks.promotion import under_way
from tasks.rollout import directory_of, stop
from tasks.rollout_store import Rollout, load, path_of, save, tell
from workflows import release as workflows

ROUTES = Routes(port=8090, champion=9001, canary=9002, shadow=9003, percent=25, salt="s")
NOW = datetime.now(timezone.utc)


@pytest.mark.parametrize(
    "routes",
    [ROUTES, replace(ROUTES, percent=0), replace(ROUTES, percent=100),
     Routes(port=8090, champion=9001), replace(ROUTES, shadow=0)],
)  # fmt: skip
def test_nginx_takes_every_configuration(routes: Routes, tmp_path: Path) -> None:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    assert program, "no nginx: run 'make nginx' (as root), or install it"
    (tmp_path / "temp").mkdir()
    (tmp_path / "nginx.conf").write_text(render(routes))
    command = [program, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_shares_are_those_of_the_step() -> None:
    assert '"s $unit" $arm { 25% canary; * champion; }' in render(ROUTES)
    assert "$arm { * champion; }" in render(replace(ROUTES, percent=0))
    assert "$arm { * canary; }" in render(replace(ROUTES, percent=100))
    assert "mirror" not in render(replace(ROUTES, shadow=0)).replace("log_format mirrored", "")


def test_an_attempt_counts_for_the_arm_that_was_meant(tmp_path: Path) -> None:
    log, own = tmp_path / "access.log", "127.0.0.1:9002"
    lines: list[tuple[str, ...]] = [
        ("champion", "", "127.0.0.1:9001", "200", "0.010"),
        ("champion", "", "127.0.0.1:9001", "422", "0.010"),
        ("canary", own, "127.0.0.1:9002", "200", "0.400"),
        ("canary", own, "127.0.0.1:9002, 127.0.0.1:9001", "502, 200", "0.001, 0.010"),
        ("canary", own, "127.0.0.1:9001", "200", "0.010"),  # known to be down: never asked
        ("canary", "127.0.0.1:9102", "127.0.0.1:9102", "200", "0.010"),  # started again
        ("shadow", "", "", "", ""),  # a canary's request, which is not mirrored
        ("shadow", "", "127.0.0.1:9003", "504", "2.000"),
    ]
    names = ("arm", "own", "address", "statuses", "seconds", "fallback")
    lines = [(*line, "") for line in lines]
    lines.append(("shadow", "", "127.0.0.1:9003", "200", "0.010", "1"))  # its fallback stood in
    text = "".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines)
    log.write_text("a line before the release\n" + text + '{"arm": "cham')
    seen = read_log(log, 26, 0.25)
    assert seen.champion == Traffic(requests=2, failed=1, slow=0)
    assert seen.canary == Traffic(requests=4, failed=2, slow=1)
    assert seen.shadow == Traffic(requests=2, failed=2, slow=1)


def test_an_approval_counts_for_these_files_since_the_release_began(made: Made) -> None:
    trust = own_trust(made.home)
    assert approvals.approver_of(made.home, made.certificate, trust, NOW) == ""
    path = approvals.approve(made.home, made.key, made.certificate, " Ann ", "seen", NOW)
    assert approvals.approver_of(made.home, made.certificate, trust, NOW) == "Ann"
    later = NOW + timedelta(seconds=1)
    assert approvals.approver_of(made.home, made.certificate, trust, later) == ""
    other = replace(made.certificate, files={"model.onnx": "0" * 64})
    with pytest.raises(CertificateError, match="approves other files"):
        approvals.approver_of(made.home, other, trust, NOW)
    path.write_bytes(path.read_bytes().replace(b'"payload": "', b'"payload": "A'))
    with pytest.raises(CertificateError):
        approvals.approver_of(made.home, made.certificate, trust, NOW)
    with pytest.raises(DeclarationError, match="names its approver"):
        approvals.approve(made.home, made.key, made.certificate, " ", "", NOW)


@pytest.mark.parametrize(
    ("state", "promoted", "own", "other"),
    [
        (State(step=1), False, True, True),
        (State(step=4, ended="done"), False, False, True),  # it is promoted now, nothing else is
        (State(step=4, ended="done"), True, False, False),
        (State(ended="back"), False, False, False),
    ],
)
def test_nothing_is_promoted_beside_a_release(
    made: Made, state: State, promoted: bool, own: bool, other: bool
) -> None:
    assert under_way(made.home, "flights", "1.0.2") == ""
    rollout = Rollout(
        use_case="flights", version="1.0.1", certificate="cert-1", model_dir="/m/" + "a" * 64,
        champion_dir="/m/" + "b" * 64, champion_version="1.0.0", began=NOW.isoformat(),
        plan=Plan(), state=state, promoted=promoted,
    )  # fmt: skip
    save(made.home, rollout)
    assert bool(under_way(made.home, "flights", "1.0.1")) == own
    said = under_way(made.home, "flights", "1.0.2")
    assert bool(said) == other
    assert not said or "flights 1.0.1 is being released" in said


def test_what_a_release_left_running_is_ended_once_it_is_over(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(made.home.root))
    place = made.home.root / "targets" / "flights" / "champion-1"
    place.parent.mkdir(parents=True)
    server = subprocess.Popen([sys.executable, "-c", "input()", WORD], stdin=subprocess.PIPE)
    place.with_suffix(".pid").write_text(str(server.pid))
    arm = {"name": place.name, "model_dir": "/m", "port": 1}
    told = {"port": 8090, "arms": {"champion": arm}}
    (place.parent / "local.json").write_text(json.dumps(told))
    rollout = Rollout(
        use_case="flights", version="1.0.1", certificate="cert-1", model_dir="/m/" + "a" * 64,
        champion_dir="/m/" + "b" * 64, champion_version="1.0.0", began=NOW.isoformat(),
        plan=Plan(), state=State(),
    )  # fmt: skip
    save(made.home, rollout)
    with pytest.raises(PromotionError, match=r"is being released: roll it back first"):
        stop(made.home, "flights")
    assert server.poll() is None
    save(made.home, replace(rollout, state=State(ended="back")))
    assert "no server" in workflows.stop(model="flights")
    assert server.wait(timeout=5) == -signal.SIGTERM
    assert "no server" in stop(made.home, "flights")


def test_a_decision_is_told_once(made: Made) -> None:
    decision = Decision(kind="hold", step=0, percent=0, words="waits", figures=())
    rollout = Rollout(
        use_case="flights", version="1.0.1", certificate="cert-1", model_dir="/m/" + "a" * 64,
        champion_dir="/m/" + "b" * 64, champion_version="1.0.0", began=NOW.isoformat(),
        plan=Plan(), state=State(decisions=(decision, decision)),
    )  # fmt: skip
    save(made.home, rollout)
    tell(made.home, rollout)
    told = tell(made.home, rollout)  # killed before it was noted that the ledger knows
    assert load(made.home, "flights") == told
    entries = [e["facts"] for e in ledger.entries(made.home) if e["kind"] == "rollout"]
    assert [facts["look"] for facts in entries] == [1, 2]


def test_a_version_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromotionError, match=r"9\.9\.9 has no certificate.*known versions: none"):
        directory_of(Home(root=tmp_path), "flights", "9.9.9")
    assert path_of(Home(root=tmp_path), "flights").name == "flights.json"


def test_an_outcome_counts_once_its_window_is_over() -> None:
    """Whatever its label: at any look those that count are the answers up to a moment."""
    hours = [1, 2, 3, 4, 30, None]  # after the question, until the label is available
    available = [None if hour is None else NOW + timedelta(hours=hour) for hour in hours]
    instant = pa.timestamp("us", tz="UTC")
    table = pa.table(
        {
            "prediction_time": pa.array([NOW] * 6, instant),
            "available_at": pa.array(available, instant),
        }
    )
    day = timedelta(hours=24)
    assert not settled(table, day, NOW + timedelta(hours=23)).any()
    for later in (24, 48):
        counted = settled(table, day, NOW + timedelta(hours=later)).tolist()
        assert counted == [True] * 4 + [False] * 2


def test_a_batch_counts_once() -> None:
    values, requests = np.array([1.0, 0.0, 0.0, -1.0]), np.array([3, 3, 0, 1])
    assert by_request(values, requests).tolist() == [0.0, -1.0, 0.5]
    assert by_request(np.zeros(0), np.zeros(0, np.int64)).tolist() == []
