"""Changes to a user's own folder of raw files (``source_fixtures``), and its refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from feature_repo.errors import SourceError
from feature_repo.flights.source import read

TABLES = ("flights", "weather", "airports")
Change = Callable[[pl.DataFrame], pl.DataFrame]


def change(folder: Path, table: str, how: Change) -> None:
    """Rewrite a table of the folder."""
    path = folder / f"{table}.csv"
    how(pl.read_csv(path, infer_schema=False)).write_csv(path)


def set_cells(column: str, value: str, rows: range) -> Change:
    """Put ``value`` into ``column`` of some rows (counted from 0)."""
    index = pl.int_range(pl.len())
    chosen = index.is_in(list(rows))
    return lambda t: t.with_columns(
        pl.when(chosen).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
    )


def refused(folder: Path, *parts: str) -> None:
    """Reading the folder is refused with a message that has all the parts."""
    with pytest.raises(SourceError) as caught:
        read(str(folder))
    for part in parts:
        assert part in str(caught.value)
