"""A small source made from the whole one."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from feature_repo.ingest import read_file


def first_rows(table: str, path: Path, count: int) -> pl.DataFrame:
    """The first rows of a file; of weather those of each airport, since a file that lacks one of
    them is taken for a cut one."""
    rows = read_file(path)
    if table != "weather":
        return rows.head(count)
    return pl.concat([of_airport.head(count) for of_airport in rows.partition_by("origin")])
