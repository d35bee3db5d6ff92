"""The offline store: versions of a service, as they were, shared, pruned, whole after a kill."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import timedelta
from importlib.metadata import version as installed
from pathlib import Path

import pytest
from conftest import Year
from offline_helpers import JUNE, ingest, weather, write_story

from feature_repo import offline
from feature_repo.code_version import code_version
from feature_repo.contract import UseCase
from feature_repo.errors import StateError
from feature_repo.history import as_of
from feature_repo.home import Home
from feature_repo.registry import USE_CASES, get_use_case
from feature_repo.services import older_services, record
from feature_repo.tables import content_digest, table_files, write_raw
from feature_repo.training_sql import training_set_sql


@pytest.fixture(scope="module")
def story(weather_year: Year, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """See ``write_story``."""
    return write_story(Home(root=tmp_path_factory.mktemp("offline")), weather_year)


def test_a_new_day_adds_its_ticks_and_a_correction_only_what_it_touches(
    story: Home, weather_year: Year
) -> None:
    first, second, third = offline.versions(story, weather_year.use_case)
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert second.corrected == 0
    assert 0 < second.added < first.added / 50
    assert third.added == 0
    # One hour's temperature: rows of one station within a day, and the same row a day later.
    assert 0 < third.corrected < 120


def test_months_that_did_not_change_are_one_file(story: Home, weather_year: Year) -> None:
    """Five months of the six are links to the same bytes."""
    first, second, _ = offline.versions(story, weather_year.use_case)
    for before, after in zip(first.built.views, second.built.views, strict=True):
        shared = {p.stat().st_ino for p in table_files(before)}
        kept = [p for p in table_files(after) if p.stat().st_ino in shared]
        assert len(kept) == len(table_files(after)) - 1
    added = offline.sizes([first, second])
    assert added[1] < added[0] / 3
    assert "3 versions" in offline.report(story, weather_year.use_case)


def test_the_same_data_make_no_new_version(story: Home, weather_year: Year) -> None:
    case, last = weather_year.use_case, offline.newest(story, weather_year.use_case)
    again = offline.update(story, case, last.built.tables, until=last.until)
    assert again == last


def test_a_version_that_was_overtaken_is_refused(story: Home, weather_year: Year) -> None:
    """Raw tables that continue an older version would undo what came since."""
    case, last = weather_year.use_case, offline.newest(story, weather_year.use_case)
    with pytest.raises(StateError, match="version 3 was made while the one after 2 was prepared"):
        offline.update(story, case, last.built.tables, offline.Origin(after=2), until=last.until)
    assert offline.newest(story, case) == last


def history(home: Home, year: Year) -> list[offline.Version]:
    """Versions at 3 h (from the source), 3:05, 9:00 and 21:00 h (steps) of each of four days."""
    base, case = ingest(home, year, JUNE), year.use_case
    folder = home.root / "offline" / case.service
    made: list[offline.Version] = []
    for day in range(4):
        for minutes in (180, 185, 540, 1260):
            created = JUNE + timedelta(days=day, minutes=minutes)
            version = replace(
                base, number=len(made) + 1, created=created,
                quarantine=base.built.tables[0] if minutes == 180 else None,
                built=replace(base.built, views=[
                    replace(view, digest=f"{len(made)}{view.digest[1:]}")
                    for view in base.built.views
                ]),
            )  # fmt: skip
            text = json.dumps(asdict(version), default=str)
            (folder / f"{version.number:08d}.json").write_text(text)
            made.append(version)
    assert offline.versions(home, case) == made
    return made


@pytest.mark.parametrize("name", USE_CASES)
def test_what_is_recorded_of_a_service_is_read_again(name: str, tmp_path: Path) -> None:
    """Of every use case: by a program of another declaration, which can still compute it."""
    home, case = Home(root=tmp_path), get_use_case(name)
    record(home, case)
    newer = replace(case, lag=case.lag + timedelta(minutes=1))
    (older,) = older_services(home, newer)
    assert older.service == case.service
    for part in ("features", "fields", "tables", "requests_sql", "tick", "lag", "auxiliary"):
        assert getattr(older, part) == getattr(case, part)
    assert training_set_sql(older) == training_set_sql(case)


def test_of_old_versions_one_a_day_is_kept(weather_year: Year, tmp_path: Path) -> None:
    """All of the last day; before it the last of each day and the last from the source; what a
    model was trained on; nothing past the retention but that and the newest."""
    home, case = Home(root=tmp_path), weather_year.use_case
    made = history(home, weather_year)
    needed = {view.digest for view in made[5].built.views}
    now = made[-1].created
    gone = offline.prune(home, case, now, needed)
    assert [version.number for version in gone] == [2, 3, 7, 10, 11]
    assert [v.number for v in offline.versions(home, case)] == [
        1,
        4,
        5,
        6,
        8,
        9,
        12,
        13,
        14,
        15,
        16,
    ]
    assert offline.prune(home, case, now, needed) == []
    assert as_of(home, case, made[3].created).number == 4
    assert as_of(home, case, made[4].created - timedelta(seconds=1)).number == 4
    with pytest.raises(StateError, match=r"nearest: 1 of 2013-06-10T03:00:00.* and 4 of"):
        as_of(home, case, made[2].created)
    much_later = now + case.retention + timedelta(days=1)
    offline.prune(home, case, much_later, needed)
    assert [version.number for version in offline.versions(home, case)] == [6, 16]
    offline.prune(home, case, much_later)
    assert [version.number for version in offline.versions(home, case)] == [16]


def test_an_older_declaration_can_still_be_computed(weather_year: Year, tmp_path: Path) -> None:
    """From its record alone: the same tables, under its own service's name."""
    home, case = Home(root=tmp_path), weather_year.use_case
    version = ingest(home, weather_year, JUNE)
    newer: UseCase = replace(case, features=case.features[:-1])
    (older,) = older_services(home, newer)
    assert (older.service, older.declaration) == (case.service, case.declaration)
    assert older.views == case.views
    tomorrow = JUNE + timedelta(days=1)
    stored = [write_raw(home, case.tables[0], weather(weather_year, tomorrow))]
    ours = offline.update(home, older, stored, until=tomorrow)
    assert ours.number == version.number + 1
    assert [view.rows for view in ours.built.views] > [view.rows for view in version.built.views]


# They check, name or refuse; no byte of a view is theirs.
APART = {"checks", "declaration", "errors", "home", "model", "request_rules", "training_sql"}


def imported(module: str) -> set[str]:
    """The modules of the feature repository that one imports, wherever in it."""
    path = Path(offline.__file__).with_name(f"{module}.py")
    found = [
        n.module or ""
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.ImportFrom)
    ]
    return {name.partition(".")[2] for name in found if name.startswith("feature_repo.")}


def test_the_engine_is_all_that_computes_views() -> None:
    """Every module that the engine imports counts as it, but for those that add nothing."""
    reached, left = set(), {"engine", "update"}
    while left:
        module = left.pop()
        reached.add(module)
        left |= imported(module) - reached - APART
    assert {f"feature_repo.{module}" for module in reached} == set(offline.ENGINE)


@pytest.mark.parametrize("library", ["duckdb", "polars", "pyarrow", "sqlglot"])
def test_another_library_is_another_engine(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes the SQL, runs it, or writes the bytes."""
    before = offline.engine_code()
    monkeypatch.setattr(
        "feature_repo.code_version.version",
        lambda name: "0.0" if name == library else installed(name),
    )
    code_version.cache_clear()
    try:
        assert offline.engine_code() != before
    finally:
        code_version.cache_clear()


KILLED = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from feature_repo import offline
from feature_repo.history import as_of
from feature_repo.home import Home
from feature_repo.registry import get_use_case
home, case = Home(root=Path(sys.argv[1])), get_use_case("weather")
print("go", flush=True)
last = offline.newest(home, case)
for hour in range(1, 1000):
    offline.update(home, case, last.built.tables, until=last.until + timedelta(hours=hour))
"""


def test_a_killed_writer_leaves_whole_versions(weather_year: Year, tmp_path: Path) -> None:
    """kill -9 while versions are written: every version that is there can be read, and the next
    writer goes on."""
    home, case = Home(root=tmp_path), weather_year.use_case
    ingest(home, weather_year, JUNE)
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "go\n"
    deadline = time.monotonic() + 120
    while len(offline.versions(home, case)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    kept = offline.versions(home, case)
    assert len(kept) >= 3
    for version in kept:
        for table in version.tables:
            assert content_digest(Path(table.uri)) == table.digest
    after = ingest(home, weather_year, kept[-1].until + timedelta(days=1))
    assert after.number == kept[-1].number + 1
