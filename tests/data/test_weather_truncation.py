"""Weather's features know nothing of the future either: see ``test_truncation``."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest
from conftest import Year

from feature_repo.contract import UseCase
from feature_repo.engine import build_training_set, compute_views
from feature_repo.tables import read_table, write_table

MEASURED = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
LAG, TICK = pd.Timedelta(minutes=5), "15min"
CLOCK_CHANGES = ("2013-03-10", "2013-11-03")


@pytest.fixture(scope="module")
def weather(weather_year: Year) -> pd.DataFrame:
    """The stored table."""
    stored: pd.DataFrame = read_table(weather_year.tables[0]).to_pandas()
    return stored


def world(weather: pd.DataFrame, asked: pd.Series, mark: str) -> pd.DataFrame:
    """The airport's hours that were over at the tick that ``asked`` (a training row) reads, and
    the hour that the request is made of, whose readings nobody knew."""
    now = (asked["prediction_time"] - LAG).floor(TICK)
    assert asked["tick"] == now
    own = weather[weather["origin"] == asked["origin"]]
    known = own[own["time_hour"] + pd.Timedelta(hours=1) <= now].assign(asked=False)
    itself = own[own["time_hour"] == asked["prediction_time"]].assign(
        asked=True, **dict.fromkeys(MEASURED, float("nan"))
    )
    assert len(itself) == 1
    cut = pd.concat([known.iloc[-24 * 6 :], itself])
    marked: pd.DataFrame = cut.assign(origin=cut["origin"] + mark)
    return marked


def unequal(year: Year, use_case: UseCase, weather: pd.DataFrame) -> set[str]:
    """Features that are not the same in the cut-off worlds of sixty requests."""
    rows = read_table(year.training_set).to_pandas()
    day = rows["prediction_time"].dt.strftime("%Y-%m-%d")
    special = rows[day.isin(CLOCK_CHANGES)].sample(10, random_state=1)
    asked = pd.concat([special, rows.sample(50, random_state=2)]).drop_duplicates("request_id")
    worlds = [world(weather, row, f"#{n}") for n, (_, row) in enumerate(asked.iterrows())]
    table = pa.Table.from_pandas(pd.concat(worlds), preserve_index=False)
    written = [write_table(year.home, "weather", table)]
    only = replace(use_case, requests_sql=f"{use_case.requests_sql} where asked.asked")
    made = build_training_set(year.home, only, written, compute_views(year.home, only, written))
    theirs = read_table(made).to_pandas()
    theirs["request_id"] = theirs["request_id"].str.replace(r"#\d+", "", regex=True)
    names = [spec.name for spec in use_case.features]
    ours = asked.set_index("request_id")[names]
    found = theirs.set_index("request_id").loc[ours.index, names]
    return {n for n in names if not ours[n].equals(found[n])}


def test_sixty_requests_know_nothing_of_the_future(
    weather_year: Year, weather: pd.DataFrame
) -> None:
    assert not unequal(weather_year, weather_year.use_case, weather)


def test_a_leak_would_be_seen(weather_year: Year, weather: pd.DataFrame) -> None:
    """An hour's weather taken for known before the hour is over."""
    case = weather_year.use_case
    log = next(spec.log for spec in case.features if spec.log.name == "observations")
    early = replace(log, sql=log.sql.replace("interval '1' hour", "interval '0' hour"))
    features = tuple(
        replace(spec, log=early) if spec.log.name == "observations" else spec
        for spec in case.features
    )
    leaking = replace(case, features=features)
    tables, home = weather_year.tables, weather_year.home
    made = build_training_set(home, leaking, tables, compute_views(home, leaking, tables))
    leaked = unequal(replace(weather_year, training_set=made), leaking, weather)
    assert {"temp_now", "pressure_mean_3h"} <= leaked
