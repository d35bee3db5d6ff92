"""Cleaning a home: leftovers go, everything that is accounted for stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from log_helpers import WEATHER, prediction, record
from pipeline import Done, Flown, Place, check_sound, told

from feature_repo import offline
from feature_repo.home import Home, folder_digests
from feature_repo.registry import get_use_case
from feature_repo.tables import table_place
from serving.predictions import find
from serving.sealing import RETENTION
from serving.segments import folder_of, segments
from tasks.housekeeping import SEEN, clean, clean_home, seal_logs

ORPHAN = "0" * 64
NOW = timedelta(0)


@dataclass(frozen=True)
class Cleaned:
    """A home before and after: files by path (and digest), what was planted, what was said."""

    place: Place
    before: dict[str, str]
    planted: list[str]
    dry: Done
    after_dry: dict[str, str]
    done: Done
    after: dict[str, str]


def files(place: Place) -> dict[str, str]:
    """Files of a home without locks, which come and go."""
    found = folder_digests(place.root)
    return {name: digest for name, digest in found.items() if not name.startswith("locks/")}


@pytest.fixture(scope="module")
def cleaned(flown: Flown, tmp_path_factory: pytest.TempPathFactory) -> Cleaned:
    """A copy of a finished home with a killed run's leftovers in it, cleaned."""
    place = flown.copy(tmp_path_factory.mktemp("cleaned"))
    seal_logs(place.home)
    before = files(place)
    leftovers = {
        f"tables/.{ORPHAN}.parquet.1f.tmp": b"half a table",
        f"tables/{ORPHAN}.parquet": b"no one's table",
        f"folders/{ORPHAN}/model.onnx": b"no one's model",
        "models/weather/.half.2e.tmp/model.onnx": b"half a model",
        "models/weather/.half.2e.tmp/.deeper.3f.tmp": b"in a leftover",
        "online/.weather.3d.tmp": b"half a store",
        "online/weather_0123456789ab.db": b"rows of a declaration that nobody knows",
        "online/weather_0123456789ab.db-wal": b"",
        "releases/weather/abc/.release.json.4a.tmp": b"half a release",
        "ledger/.head.next.5b.tmp": b"half a head",
        "trust/.revocations.json.6c.tmp": b"half a list",
        f"checkpoints/weather/{ORPHAN[:16]}/1/finished": ORPHAN.encode(),
    }
    for name, content in leftovers.items():
        path = place.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _age(place.root)
    dry = place.run("housekeeping:preview", "--grace_minutes", "0")
    after_dry = files(place)
    done = place.run("housekeeping:clean", "--grace_minutes", "0")
    return Cleaned(place, before, list(leftovers), dry, after_dry, done, files(place))


def _age(root: Path, hours: int = 1) -> None:
    """Everything was written an hour ago, or some."""
    then = time.time() - hours * 3600
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def test_dry_run_removes_nothing(cleaned: Cleaned) -> None:
    """It says what it would remove."""
    assert cleaned.dry.code == 0, cleaned.dry.said
    assert set(cleaned.planted) <= set(cleaned.after_dry)
    assert "would remove" in cleaned.dry.said
    assert f"tables/{ORPHAN}.parquet" in cleaned.dry.said
    assert "more than once" not in cleaned.dry.said, "flytekit warns of an input"


def test_leftovers_are_removed_and_named(cleaned: Cleaned) -> None:
    """What a killed run left, and what nothing names, with the sum of its bytes."""
    assert cleaned.done.code == 0, cleaned.done.said
    assert not set(cleaned.planted) & set(cleaned.after)
    for name in cleaned.planted:
        root, leftover = name.split("/")[0], name.split("/")[1]
        assert f"{root}/{leftover}" in cleaned.done.said, cleaned.done.said
    assert "objects" in cleaned.done.said


def test_what_the_ledger_names_stays(flown: Flown, cleaned: Cleaned) -> None:
    """The model, its certificate, its tables, the ledger, keys and predictions: as they were."""
    model = f"models/weather/{Path(flown.summary['model']['path']).name}/"
    for name, digest in cleaned.before.items():
        room = name.split("/")[0]
        rooms = {"ledger", "keys", "releases", "predictions", "offline", "online", "tables"}
        if name.startswith(model) or room in rooms:
            assert cleaned.after.get(name) == digest, name
    outputs = told(cleaned.place.home, "execution")[0]["facts"]["outputs"]
    for kind in ("training_set", "quarantine"):
        assert any(name.startswith(f"tables/{outputs[kind]}") for name in cleaned.after)


def test_kept_versions_of_the_features_stay(cleaned: Cleaned) -> None:
    """Every table that a version names, so that the next run goes on from it."""
    home, case = cleaned.place.home, get_use_case("weather")
    named = [table for version in offline.versions(home, case) for table in version.tables]
    assert named
    assert all(table_place(home, table.digest).exists() for table in named)


def test_model_still_serves_and_is_still_accounted_for(flown: Flown, cleaned: Cleaned) -> None:
    """The champion loads and is ready; the audit reaches the raw file, each table stored."""
    check_sound(cleaned.place.home)
    done = cleaned.place.run("audit:audit", "--prediction_id", flown.summary["prediction_id"])
    assert done.code == 0, done.said
    assert "raw file     weather.csv" in done.said
    assert "no longer stored" not in done.said
    assert "verified, every file as signed" in done.said


def test_a_finished_pipeline_leaves_nothing_to_remove(flown: Flown) -> None:
    """Every table and folder that it stored is named: a clean-up keeps them and the cache."""
    said = clean(flown.place.home, NOW, remove=False)
    assert said.startswith("would remove 0 objects"), said


@pytest.mark.parametrize(
    ("planted", "anew"),
    [
        ("tables/.1f.tmp/2013-01.5.parquet", False),
        ("releases/weather/abc/.release.json.4a.tmp", False),
        ("online/weather_0123456789ab.db", False),
        (f"tables/{ORPHAN}/2013-01.5.{ORPHAN}.parquet", True),
        (f"folders/{ORPHAN}/model.onnx", True),
    ],
)
def test_the_cache_is_given_up_only_where_it_may_name_what_goes(
    tmp_path: Path, planted: str, anew: bool
) -> None:
    """The home's identity, an input of each cached step, stays when only leftovers went."""
    home = Home(root=tmp_path)
    before, path = home.id, home.path(*planted.split("/"))
    path.write_bytes(b"x")
    _age(tmp_path)
    said = clean(home, NOW, remove=True)
    assert not path.exists()
    assert said.startswith("removed 1 objects"), said
    assert ("computes every step anew" in said) == anew
    assert (home.id != before) == anew


def test_what_a_running_pipeline_may_read_from_the_cache_goes_later(tmp_path: Path) -> None:
    """A hit leaves no trace. When it is first seen that nothing needs it, later pipelines are kept
    from finding it; it goes an hour after that, unless it was made again."""
    home, hour = Home(root=tmp_path), timedelta(hours=1)
    first, table = home.id, home.path("tables", f"{ORPHAN}.parquet")
    table.write_bytes(b"x")
    _age(tmp_path, hours=2)
    assert "1 more go with a clean-up 60 minutes after" in clean(home, hour, remove=False)
    assert home.id == first
    assert clean(home, hour, remove=True).startswith("removed 0 objects")
    second = home.id
    assert second != first
    assert clean(home, hour, remove=True).startswith("removed 0 objects")
    assert home.id == second
    assert table.exists()

    def an_hour_passes() -> None:
        seen = json.loads((tmp_path / SEEN).read_text())
        _age(tmp_path, hours=2)
        (tmp_path / SEEN).write_text(json.dumps({n: at - 3601 for n, at in seen.items()}))

    an_hour_passes()
    os.utime(table, (time.time() - 3600, time.time() - 3600))  # a step put it out since
    assert clean(home, timedelta(minutes=30), remove=True).startswith("removed 0 objects")
    assert home.id != second
    an_hour_passes()
    assert clean(home, hour, remove=True).startswith("removed 1 objects")
    assert not table.exists()


def test_recorded_answers_are_sealed_and_go_when_their_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged segment is told, and stops no clean-up."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    home, now = Home(root=tmp_path), datetime.now(timezone.utc)
    old, new = prediction(at=now - RETENTION - timedelta(days=1)), prediction(at=now)
    record(home, WEATHER, old)
    record(home, WEATHER, new)
    damaged = segments(folder_of(home, "weather"))[1]
    content = damaged.read_bytes()
    damaged.write_bytes(content.replace(b"cert-1", b"cert-2"))
    said = clean_home(grace_minutes=0, remove=True)
    assert f"NOT SEALED: the prediction log {damaged} is damaged" in said
    damaged.write_bytes(content)
    said = clean_home(grace_minutes=0, remove=True)
    assert "sealed 1 segments of weather's predictions" in said
    assert (find(home, old.id), find(home, new.id)) == (None, new)
