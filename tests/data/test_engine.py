"""The engine's promises beside right values: order, digests, bounds, one SQL text."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sqlglot
from conftest import Year

from feature_repo.contract import FeatureView, UseCase
from feature_repo.engine import compute_views, open_session
from feature_repo.errors import DeclarationError, SourceError
from feature_repo.home import Home
from feature_repo.registry import USE_CASES
from feature_repo.sql import Reach, view_sql
from feature_repo.tables import named, read_table, write_table
from feature_repo.training_sql import training_set_sql

VIEWS = [(u, view) for u in USE_CASES.values() for view in u.views]


def changed(year: Year, table: pa.Table, home: Home) -> list[str]:
    """Digests of the views computed from another table of the same name."""
    stored = [write_table(home, "weather", table)]
    return [view.digest for view in compute_views(home, year.use_case, stored)]


def test_order_of_rows_changes_no_digest(weather_year: Year, tmp_path: Path) -> None:
    """Sums are exact, ties are broken, output is ordered: shuffled rows give the same bytes."""
    table = read_table(weather_year.tables[0])
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    assert changed(weather_year, shuffled, Home(root=tmp_path)) == [
        view.digest for view in weather_year.views
    ]


def test_one_changed_cell_changes_the_digest(weather_year: Year, tmp_path: Path) -> None:
    """Nothing computed from other data is taken for the same."""
    table = read_table(weather_year.tables[0])
    values = table["temp"].to_pylist()
    values[100] += 1.0
    at = table.schema.get_field_index("temp")
    digests = changed(
        weather_year, table.set_column(at, "temp", pa.array(values)), Home(root=tmp_path)
    )
    assert all(a != b.digest for a, b in zip(digests, weather_year.views, strict=True))


def test_a_value_out_of_its_bounds_stops_the_run(weather_year: Year, tmp_path: Path) -> None:
    """Named with table, column, rule, count and values; the home stays as it was."""
    year = weather_year
    features = tuple(
        replace(spec, bounds=(0.0, 50.0)) if spec.name == "temp_now" else spec
        for spec in year.use_case.features
    )
    with pytest.raises(SourceError) as caught:
        compute_views(Home(root=tmp_path), replace(year.use_case, features=features), year.tables)
    for part in ("station_observations", "'temp_now'", "in_range(0.0, 50.0)", "rows", "example"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_value_too_large_to_be_summed_stops_the_run(weather_year: Year, tmp_path: Path) -> None:
    """It is not left out of its sum in silence; the message names view, log and value."""
    year, home = weather_year, Home(root=tmp_path)
    table = read_table(year.tables[0]).slice(0, 100)
    at = table.schema.get_field_index("temp")
    large = pa.array([1e17] + [50.0] * (table.num_rows - 1))
    stored = [write_table(home, "weather", table.set_column(at, "temp", large))]
    with pytest.raises(SourceError, match=r"'station_\w+'.*event log '\w+'.*100000000000000000"):
        compute_views(home, year.use_case, stored)


@pytest.mark.parametrize("distinct", ["", "distinct "])
def test_sql_that_duckdb_cannot_run_is_named(
    weather_year: Year, tmp_path: Path, distinct: str
) -> None:
    """That of a log, or of the requests, whether or not it maps one table row by row."""
    case, home = weather_year.use_case, Home(root=tmp_path)

    def harmed(sql: str) -> str:
        text = re.sub("select ", f"select {distinct}", sql.strip(), count=1)
        return f"{text} where make_dt_interval(0, 1) is null"

    log = case.features[0].log
    specs = [replace(s, log=replace(log, sql=harmed(log.sql))) for s in case.features]
    logs = tuple(h if s.log is log else s for s, h in zip(case.features, specs, strict=True))
    asked = "select origin, time_hour as prediction_time from weather"
    for what, declared in (
        ("requests_sql", replace(case, requests_sql=harmed(asked))),
        (f"event log {log.name!r}", replace(case, features=logs)),
    ):
        with pytest.raises(DeclarationError) as caught:
            open_session(home, declared, weather_year.tables)
        for part in ("'weather'", what, "make_dt_interval", "interval '1' minute"):
            assert part in str(caught.value)


@pytest.mark.parametrize(("use_case", "view"), VIEWS, ids=[view.name for _, view in VIEWS])
def test_a_view_is_one_text_in_sparks_dialect(use_case: UseCase, view: FeatureView) -> None:
    """No syntax that Spark lacks, and it parses as Spark's."""
    sql = view_sql(view, use_case.tick, Reach(first=0, last=99))
    assert not re.search(r"\b(asof|qualify)\b", sql, re.IGNORECASE)
    assert sqlglot.parse_one(sql, read="spark")


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_the_training_set_is_one_text_in_sparks_dialect(use_case: UseCase) -> None:
    """The same for the join."""
    sql = training_set_sql(use_case)
    assert not re.search(r"\b(asof|qualify)\b", sql, re.IGNORECASE)
    assert sqlglot.parse_one(sql, read="spark")


@pytest.mark.parametrize("name", ["flights", "weather"])
def test_layout_of_the_training_set(name: str, request: pytest.FixtureRequest) -> None:
    """Columns, types and order are the contract's; each request is there once."""
    year: Year = request.getfixturevalue(f"{name}_year")
    table, use_case = read_table(year.training_set), year.use_case
    assert table.column_names == [
        "request_id", "prediction_time", "event_time", "tick",
        *(field.name for field in use_case.fields), *(spec.name for spec in use_case.features),
        "label", "label_available_at", *(("arr_delay",) if name == "flights" else ()),
    ]  # fmt: skip
    types = {spec.name: table.schema.field(spec.name).type for spec in use_case.features}
    assert set(types.values()) == {pa.float64()}
    assert table.schema.field("tick").type == pa.timestamp("us", tz="UTC")
    assert len(set(table["request_id"].to_pylist())) == table.num_rows == year.training_set.rows
    ticks, asked = table["tick"].to_numpy(), table["prediction_time"].to_numpy()
    wait = asked - ticks
    assert wait.min() >= np.timedelta64(int(use_case.lag.total_seconds()), "s")
    assert wait.max() < np.timedelta64(use_case.lag + use_case.tick)


def test_labels_of_flights(flights_year: Year) -> None:
    """Late is more than 15 minutes; cancelled and diverted flights have no label."""
    table = read_table(flights_year.training_set).select(["label", "label_available_at"])
    label = table["label"].to_numpy()
    assert int(np.isnan(label).sum()) == 8255 + 1175
    assert np.nanmean(label) == pytest.approx(0.2371, abs=5e-5)
    assert table["label_available_at"].null_count == 8255 + 1175


def test_a_row_older_than_its_ttl_reads_as_missing(weather_year: Year, tmp_path: Path) -> None:
    """After two days without an observation there is no last temperature."""
    from feature_repo.engine import build_training_set

    year, home = weather_year, Home(root=tmp_path)
    table = read_table(named(year.tables, "weather"))
    hours = table["time_hour"].to_numpy()
    start = np.datetime64("2013-05-01")
    # The requests come from the same table, so the gap is bridged by its own edges only.
    gap = (hours >= start) & (hours < start + np.timedelta64(4, "D"))
    stored = [write_table(home, "weather", table.filter(pa.array(~gap)))]
    rows = build_training_set(
        home, year.use_case, stored, compute_views(home, year.use_case, stored)
    )
    frame = read_table(rows).to_pandas().set_index("prediction_time").sort_index()
    after = frame[frame.index >= "2013-05-05"]
    assert after["temp_now"].iloc[0:3].isna().all()
    assert after["temp_now"].iloc[9:30].notna().all()
    assert year.use_case.views[0].log.ttl == timedelta(days=2)
