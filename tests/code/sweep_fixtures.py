"""Fixtures of sweeps: a small training set, a PostgreSQL, each storage in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from postgres_server import postgres_server
from sweep_helpers import one_core, small

from feature_repo.home import Home
from feature_repo.tables import Table

if TYPE_CHECKING:
    from conftest import Year


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """This process trains on one core."""
    cores = os.sched_getaffinity(0)
    one_core(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def small_weather(weather_year: Year, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """An eighth of the weather."""
    return small(weather_year.training_set, Home(root=tmp_path_factory.mktemp("sweeps")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that the session shares."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["journal", "postgresql"])
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each storage in turn."""
    if request.param == "postgresql":
        monkeypatch.setenv("AIRWORTHY_SWEEP_STORAGE", request.getfixturevalue("postgres"))
    return str(request.param)
