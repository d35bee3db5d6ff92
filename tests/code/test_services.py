"""A feature service lives until the last model that needs it retires."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline import Twins

from feature_repo import offline
from feature_repo.contract import UseCase
from feature_repo.errors import PromotionError, SkewError, StateError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.services import older_services
from serving import ledger
from serving.artifact import LINEAGE
from serving.releases import read_current
from tasks.feature_versions import forget_versions, list_versions, rebuild_as_certified
from tasks.housekeeping import unneeded
from tasks.ledger import own_trust
from tasks.promotion import promote_version
from tasks.services import living_services, needed_by, remove, retire


@pytest.fixture
def home(twins: Twins, tmp_path: Path) -> Home:
    """A copy of a home in which two models of one declaration were released."""
    shutil.copytree(twins.left.root, tmp_path / "home")
    return Home(root=tmp_path / "home")


@pytest.fixture
def newer() -> UseCase:
    """What a later program declares: a feature less."""
    case = get_use_case("weather")
    return replace(case, features=case.features[:-1])


def released(home: Home) -> list[str]:
    """Versions of the released models."""
    return [e["facts"]["version"] for e in ledger.entries(home) if e["kind"] == "release"]


def test_a_service_is_removed_once_its_last_model_is_retired(home: Home, newer: UseCase) -> None:
    """Refused with the models' names; then retired one by one; the champion cannot be."""
    case, (_, champion) = get_use_case("weather"), read_current(home, "weather")
    assert set(needed_by(home, "weather")) == {case.service}
    assert [older.service for older in living_services(home, newer)] == [case.service]
    with pytest.raises(StateError, match=f"is needed by weather .*{champion}.*retire_version"):
        remove(home, newer, case.service)
    for version in released(home):
        if version == champion:
            with pytest.raises(PromotionError, match="is the champion"):
                retire(home, "weather", version, "too old")
        else:
            assert "is retired" in retire(home, "weather", version, "too old")
            with pytest.raises(PromotionError, match=f"{version} is retired"):
                promote_version(home, "weather", version)
    assert needed_by(home, "weather") == {case.service: [champion]}
    ledger.verify(home, own_trust(home))


def test_a_model_s_training_set_is_rebuilt_after_the_declaration_changed(
    home: Home, newer: UseCase
) -> None:
    """From the stored views of the old service: what its lineage names, and nothing less; a model
    that was never certified, and tables that are gone, are told by name."""
    case, (folder, version) = get_use_case("weather"), read_current(home, "weather")
    lineage = json.loads((folder / LINEAGE).read_text())
    for declared in (case, newer):
        table = rebuild_as_certified(home, declared, version)
        assert table.digest == lineage["training"]["table"]
    with pytest.raises(StateError, match=r"weather 9\.9\.9 was never certified in"):
        rebuild_as_certified(home, newer, "9.9.9")
    lineage["training"]["split_dates"][0] = "2013-01-02T00:00:00+00:00"
    (folder / LINEAGE).write_text(json.dumps(lineage))
    with pytest.raises(SkewError, match=r"by its certificate, but .* when it is rebuilt"):
        rebuild_as_certified(home, newer, version)
    for path in (home.root / "offline" / case.service).glob("0*.json"):
        path.unlink()
    with pytest.raises(StateError, match="is no longer kept"):
        rebuild_as_certified(home, newer, version)


def test_what_no_model_needs_goes(
    home: Home,
    newer: UseCase,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Versions, online rows, record; the program's own service stays, an unknown one is named.
    What the commands return is printed by the launcher: they themselves do not print it too."""
    case = get_use_case("weather")
    tables = offline.newest(home, case).built.tables
    offline.update(home, newer, tables)
    assert [older.service for older in older_services(home, case)] == [newer.service]
    assert living_services(home, case) == []
    monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))
    listed = list_versions(use_case="weather")
    assert capsys.readouterr() == ("", "")
    forgotten = forget_versions(use_case="weather")
    said = capsys.readouterr().err
    assert f"{newer.service}: 1 version, " in listed
    for told in (listed, said):
        assert f"{newer.service}: " in told
        assert f"no model needs {newer.service}: workflows/features.py remove frees" in told
    assert forgotten == "0 versions and 0 messages of weather forgotten"
    assert forgotten not in said
    assert "removed" in remove(home, case, newer.service)
    assert older_services(home, case) == []
    assert not (home.root / "offline" / newer.service).exists()
    with pytest.raises(StateError, match="there is no older feature service"):
        remove(home, case, newer.service)
    with pytest.raises(StateError, match="is what the program declares"):
        remove(home, case, case.service)


def test_a_use_case_whose_name_begins_alike_is_another_one(home: Home) -> None:
    """Its services are neither listed nor removed: this one's models do not tell who needs them."""
    case = get_use_case("weather")
    daily = replace(case, name="weather_daily")
    offline.update(home, daily, offline.newest(home, case).built.tables)
    assert older_services(home, case) == []
    with pytest.raises(StateError, match="there is no older feature service"):
        remove(home, case, daily.service)
    assert offline.head(home, daily)


def test_a_removal_that_was_killed_can_be_repeated(
    home: Home, newer: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or is done: its versions never stay behind without the record that names them."""
    case = get_use_case("weather")
    offline.update(home, newer, offline.newest(home, case).built.tables)

    def killed(path: Path) -> None:
        (path / "service.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(home, case, newer.service)
    assert older_services(home, case) == []
    assert not (home.root / "offline" / newer.service).exists()
    (left,) = (home.root / "offline").glob(".*")
    assert left in unneeded(home, set())


def test_retiring_and_removing_wait_for_a_promotion(home: Home, newer: UseCase) -> None:
    """Else what they refuse because a model is champion could become so in between."""
    case = get_use_case("weather")
    offline.update(home, newer, offline.newest(home, case).built.tables)
    (older,) = set(released(home)) - {read_current(home, "weather")[1]}
    with ThreadPoolExecutor() as pool:
        with home.lock("mlflow"):  # as a promotion does
            waiting = [
                pool.submit(retire, home, "weather", older, "too old"),
                pool.submit(remove, home, case, newer.service),
            ]
            done, _ = wait(waiting, timeout=1)
            assert done == set()
        assert [future.result().split()[-1] for future in waiting] == ["old", "tables"]


def test_only_released_models_retire(home: Home) -> None:
    with pytest.raises(PromotionError, match=r"9\.9\.9 was never released; released are"):
        retire(home, "weather", "9.9.9", "typo")
