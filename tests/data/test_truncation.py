"""No feature reads what was not yet known: delete all of it, recompute, expect the same rows."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year
from truncation import KEYS, Engine, on_duckdb, recompute, world

from feature_repo.contract import EventLog, UseCase
from feature_repo.home import Home
from feature_repo.tables import named, read_table, write_table

SPECIAL = ("03-10", "11-03", "01-01", "12-30", "12-31")  # clock changes, both ends of the year
BATCH = 50
FLIGHTS = 200 if os.environ.get("AIRWORTHY_LONG_DRILLS") else 60


@pytest.fixture(scope="module")
def frames(flights_year: Year) -> dict[str, pd.DataFrame]:
    """Stored flights and weather, and the training set, as pandas."""
    tables = {n: named(flights_year.tables, n) for n in ("flights", "weather")}
    tables["rows"] = flights_year.training_set
    read = {name: read_table(table).to_pandas() for name, table in tables.items()}
    # Categories compare by number: two hundred worlds are cut from one year.
    read["flights"] = read["flights"].astype(dict.fromkeys(KEYS, "category"))
    return read


def chosen(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Random flights, ten of each special day among them."""
    day = rows["event_time"].dt.tz_convert("America/New_York").dt.strftime("%m-%d")
    parts = [rows[day == d].sample(10, random_state=3) for d in SPECIAL]
    rest = rows.drop(index=pd.concat(parts).index).sample(number - 50, random_state=4)
    sample: pd.DataFrame = pd.concat([*parts, rest])
    return sample


def differences(
    home: Home,
    use_case: UseCase,
    frames: dict[str, pd.DataFrame],
    asked: pd.DataFrame,
    forever: bool = False,
    engine: Engine = on_duckdb,
) -> list[tuple[Any, ...]]:
    """(request, feature, value, value in the cut-off world) wherever they are not identical."""
    names, found = [spec.name for spec in use_case.features], []
    for start in range(0, len(asked), BATCH):
        batch = asked.iloc[start : start + BATCH]
        worlds = [
            world(use_case, frames, row, f"#{number}", forever)
            for number, (_, row) in enumerate(batch.iterrows())
        ]
        ours = batch.set_index("request_id")[names]
        theirs = recompute(home, use_case, worlds, engine).loc[ours.index, names]
        unequal = ~((ours == theirs) | (ours.isna() & theirs.isna())).to_numpy()
        found += [
            (ours.index[i], names[j], ours.to_numpy()[i, j], theirs.to_numpy()[i, j])
            for i, j in zip(*np.nonzero(unequal), strict=True)
        ]
    return found


def test_flights_know_nothing_of_the_future(
    flights_year: Year, frames: dict[str, pd.DataFrame]
) -> None:
    """Every declared feature of 200 flights, exactly; the short form takes 60 of them."""
    asked = chosen(frames["rows"], FLIGHTS)
    assert asked["request_id"].nunique() == FLIGHTS
    assert not differences(flights_year.home, flights_year.use_case, frames, asked)


def test_with_the_whole_history(flights_year: Year, frames: dict[str, pd.DataFrame]) -> None:
    """The same with nothing left out of the past, for a flight of the year's last days."""
    asked = chosen(frames["rows"], 200).iloc[[35]]
    assert not differences(flights_year.home, flights_year.use_case, frames, asked, forever=True)


def leaking(use_case: UseCase, name: str, before: str, after: str) -> UseCase:
    """The use case with one log's SQL changed."""

    def change(log: EventLog) -> EventLog:
        if log.name != name:
            return log
        assert before in log.sql
        return replace(log, sql=log.sql.replace(before, after))

    features = tuple(replace(spec, log=change(spec.log)) for spec in use_case.features)
    return replace(use_case, features=features)


@pytest.mark.parametrize(
    ("log", "before", "after"),
    [
        # A departure known when it happens, not when it is reported.
        ("departures", "+ interval '15' minute\n", "+ interval '0' minute\n"),
        # A cap for cancelled flights only tells them from late ones before anyone could.
        (
            "pending",
            "scheduled_departure + interval '3' hour)",
            "scheduled_departure + case when dep_delay is null then interval '3' hour "
            "else interval '99' hour end)",
        ),
        # The schedule of the third hour ahead, and of arrivals that leave after the second.
        ("schedule", "interval '2' hour", "interval '3' hour"),
        ("inbound", "interval '2' hour", "interval '12' hour"),
        # Weather of an hour that is not over.
        ("weather", "time_hour + interval '1' hour", "time_hour"),
    ],
)
def test_a_leak_would_be_seen(
    flights_year: Year, frames: dict[str, pd.DataFrame], log: str, before: str, after: str
) -> None:
    """The same test, on features that cheat, finds them out."""
    assert of_one_evening(flights_year, frames, log, before, after)


def test_without_a_leak_none_is_seen(flights_year: Year, frames: dict[str, pd.DataFrame]) -> None:
    """On the way that the leaks were seen, with the log as it is declared."""
    assert not of_one_evening(flights_year, frames, "schedule", "'2' hour", "'2' hour")


def of_one_evening(
    year: Year, frames: dict[str, pd.DataFrame], log: str, before: str, after: str
) -> list[tuple[Any, ...]]:
    """Differences in one log's features, its SQL changed, for 30 flights of an evening of
    thunderstorms: many of them wait for more than three hours."""
    from feature_repo.engine import build_training_set, compute_views

    use_case = leaking(year.use_case, log, before, after)
    specs = tuple(spec for spec in use_case.features if spec.log.name == log)
    use_case = replace(use_case, features=specs)
    rows = frames["rows"]
    day = rows["event_time"].dt.tz_convert("America/New_York").dt.strftime("%m-%d %H")
    asked = rows[day == "06-24 21"].head(30)
    flights, weather = (named(year.tables, name) for name in ("flights", "weather"))
    views = compute_views(year.home, use_case, [flights, weather])
    every = read_table(flights)
    keys = [pc.cast(every[key], "string") for key in ("date", "carrier", "flight", "origin")]
    wanted = pc.is_in(pc.binary_join_element_wise(*keys, "_"), pa.array(asked["request_id"]))
    few = write_table(year.home, "flights", every.filter(wanted))
    table = build_training_set(year.home, use_case, [few, weather], views)
    leaked = read_table(table).to_pandas().set_index("request_id").loc[asked["request_id"]]
    return differences(year.home, use_case, frames, leaked.reset_index())
