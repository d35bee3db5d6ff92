"""Declarations, assignment and the exposure log: fixed once begun, the same everywhere, once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_helpers import DURING, document, experiment

from feature_repo.errors import DeclarationError, StateError
from feature_repo.home import Home
from serving import assignment, exposures
from serving.experiment import Experiment, begin, load

UNITS = [f"N{number}" for number in range(20_000)]


def arms(*weights: float) -> list[dict[str, Any]]:
    return [{"name": f"arm-{i}", "version": "1", "weight": w} for i, w in enumerate(weights)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Flights"}, "name must be lower-case"),
        ({"salt": ""}, "salt must not be empty"),
        ({"unit": []}, "unit must name entity keys"),
        ({"arms": arms(1.0)}, "arms must be two or more"),
        ({"arms": arms(0.5, 0.6)}, "arms.weight must sum to 1, not 1.1"),
        ({"arms": [arms(0.5)[0]] * 2}, "arms must have names that differ"),
        ({"start": "2026-11-02T00:00:00"}, "start, end must be instants with an offset"),
        ({"end": "2026-11-01T00:00:00+00:00"}, "end must be after start"),
        ({"planned_units": 0}, "planned_units must be at least 2"),
        ({"alpha": 0.5}, "alpha must be above 0"),
        ({"looks": -1}, "looks must be between 0 (any-time) and 100"),
        ({"metrics": []}, "metrics.primary must be true of one metric, not of 0"),
        ({"looks": "3"}, "looks is '3', not of type int"),
        ({"look": 3}, "unexpected keyword argument 'look'"),
        ({"arms": ["control"]}, "no experiment can be read"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        experiment(**changes)
    assert told in str(refused.value)


def test_a_declaration_is_its_document() -> None:
    declared = experiment(looks=4, window_hours=6)
    assert Experiment.of(json.loads(json.dumps(declared.document()))) == declared
    assert [look.isoformat() for look in declared.look_times] == [
        "2026-11-09T06:00:00+00:00",
        "2026-11-16T06:00:00+00:00",
        "2026-11-23T06:00:00+00:00",
        "2026-11-30T06:00:00+00:00",
    ]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.95, 0.05), (0.2, 0.3, 0.5)])
def test_units_are_shared_out_by_weight(weights: tuple[float, ...]) -> None:
    declared = experiment(arms=arms(*weights))
    found = Counter(assignment.assign(declared, unit) for unit in UNITS)
    for arm in declared.arms:
        error = np.sqrt(arm.weight * (1 - arm.weight) * len(UNITS))
        assert abs(found[arm.name] - arm.weight * len(UNITS)) < 4 * error


def test_salts_are_independent_and_buckets_uniform() -> None:
    """The arm in one experiment says nothing about the arm in another one."""
    first, second = (np.array([assignment.bucket(s, unit) for unit in UNITS]) for s in "ab")
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(UNITS))
    cells = np.bincount((first * 20).astype(int), minlength=20)
    assert ((cells - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees of freedom, p .001
    assert first.min() >= 0
    assert first.max() < 1


def test_a_unit_meets_the_same_arm_in_another_process() -> None:
    """Known values: a change of the hash would move every unit of every running experiment."""
    told = [round(assignment.bucket("2026-11-a", unit), 6) for unit in ("N14228", "", "é")]
    assert told == KNOWN
    assert assignment.header(experiment(), "N14228") == {"x-airworthy-arm": "control"}


KNOWN = [0.113342, 0.498111, 0.193719]


def test_the_unit_is_the_entity_keys_in_their_order() -> None:
    one, two = experiment(), experiment(unit=["carrier", "flight"])
    request = {"tailnum": "N14228", "carrier": "UA", "flight": 1545}
    assert assignment.unit_of(one, request) == "N14228"
    assert assignment.unit_of(two, request) == '["UA","1545"]'
    with pytest.raises(DeclarationError, match=r"has no flight.*with the control"):
        assignment.unit_of(two, {"carrier": "UA", "flight": None})


def test_a_begun_experiment_is_never_changed(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    declared = experiment()
    begin(home, declared)
    assert begin(home, declared).exists()
    assert load(home, declared.name) == declared
    moved = [{**arm, "weight": w} for arm, w in zip(document()["arms"], (0.9, 0.1), strict=True)]
    for changes, field in (({"arms": moved}, "arms"), ({"looks": 5, "alpha": 0.1}, "alpha, looks")):
        with pytest.raises(DeclarationError, match=f"its {field} cannot change.*new salt"):
            begin(home, experiment(**changes))
    assert load(home, declared.name) == declared
    with pytest.raises(DeclarationError, match="those begun: flights-1-1"):
        load(home, "other")


def test_the_first_exposure_counts_whatever_comes_after(tmp_path: Path) -> None:
    home, declared = Home(root=tmp_path), experiment()
    begin(home, declared)
    early, late = exposures.ExposureLog(home, declared), exposures.ExposureLog(home, declared)
    for log, minutes in ((late, 5), (early, 1), (early, 2), (late, 0)):
        for unit in ("a", "b"):
            arm = log.expose(unit, DURING + timedelta(minutes=minutes))
            assert arm == assignment.assign(declared, unit)
    early.expose("too soon", declared.start - timedelta(seconds=1))
    early.expose("too late", declared.end)
    told = exposures.read(home, declared.name).to_pylist()
    assert [row["unit"] for row in told] == ["a", "b"]
    # The second log's first line for each was at minute 5; nothing later counts.
    assert {row["exposed_at"] for row in told} == {DURING + timedelta(minutes=1)}
    early.close()
    late.close()


def test_threads_of_a_server_write_a_unit_once(tmp_path: Path) -> None:
    home, declared = Home(root=tmp_path), experiment()
    begin(home, declared)
    log = exposures.ExposureLog(home, declared)
    with ThreadPoolExecutor(8) as threads:
        arms = list(threads.map(lambda n: log.expose(f"N{n % 100}", DURING), range(4000)))
    log.close()
    assert arms == [assignment.assign(declared, f"N{n % 100}") for n in range(4000)]
    (path,) = tmp_path.glob("experiments/*/exposures/*.jsonl")
    assert path.read_bytes().count(b"\n") == 100


def test_a_damaged_line_is_named_and_a_torn_end_left_out(tmp_path: Path) -> None:
    home, declared = Home(root=tmp_path), experiment()
    begin(home, declared)
    log = exposures.ExposureLog(home, declared)
    log.expose("a", DURING)
    log.close()
    (path,) = tmp_path.glob("experiments/*/exposures/*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert exposures.read(home, declared.name).num_rows == 1
    path.write_bytes(whole[:20] + b"\n" + whole)
    with pytest.raises(StateError, match="line 1 is no exposure"):
        exposures.read(home, declared.name)
    other = {"control": b"treatment", "treatment": b"control"}[assignment.assign(declared, "a")]
    path.write_bytes(whole.replace(assignment.assign(declared, "a").encode(), other))
    with pytest.raises(StateError, match="but the experiment assigns"):
        exposures.read(home, declared.name)


def test_a_full_disk_is_told_and_the_next_request_records(tmp_path: Path) -> None:
    home, declared = Home(root=tmp_path), experiment()
    begin(home, declared)
    log = exposures.ExposureLog(home, declared)
    log.expose("a", DURING)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (path,) = tmp_path.glob("experiments/*/exposures/*.jsonl")
    for room in (0, 5):  # none, and for a part of a line
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
        try:
            with pytest.raises(StateError, match="the exposure log"):
                log.expose("b", DURING)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.expose("b", DURING)
    log.close()
    assert [row["unit"] for row in exposures.read(home, declared.name).to_pylist()] == ["a", "b"]


WRITER = """
import sys
from experiment_helpers import DURING, experiment
from feature_repo.home import Home
from serving.exposures import ExposureLog
from pathlib import Path
home = Home(root=Path(sys.argv[1]))
log = ExposureLog(home, experiment())
for number in range(int(sys.argv[2]), 10**9):
    unit = f"N{number % 50_000}"  # the processes meet the same units
    log.expose(unit, DURING)
    print(unit, flush=True)
"""


def test_killed_writers_lose_no_exposure_and_none_counts_twice(tmp_path: Path) -> None:
    """Six processes, three at a time, killed in the midst; every unit whose answer went out is in
    the log, once."""
    home = Home(root=tmp_path / "home")
    begin(home, experiment())
    answered: set[str] = set()
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    for generation in range(2):
        files = [tmp_path / f"{generation}-{number}" for number in range(3)]
        writers = []
        for number, file in enumerate(files):
            command = [sys.executable, "-c", WRITER, str(home.root), str(1000 * number)]
            with file.open("wb") as out:
                environment = {**os.environ, "PYTHONPATH": path}
                writers.append(subprocess.Popen(command, stdout=out, env=environment))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and any(f.stat().st_size < 2000 for f in files):
            time.sleep(0.01)
        for writer in writers:
            writer.kill()
            assert writer.wait() == -9  # it was still at it
        for file in files:
            answered |= set(file.read_text().split("\n")[:-1])
    units = exposures.read(home, "flights-1-1").column("unit").to_pylist()
    assert len(answered) > 1000
    assert answered <= set(units)
    assert len(units) == len(set(units))
    lines = sum(p.read_bytes().count(b"\n") for p in home.root.rglob("*.jsonl"))
    print(f"{len(units)} units of {lines} lines of 6 killed processes; {len(answered)} answered")
    assert lines > len(units)
