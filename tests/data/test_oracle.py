"""Every declared feature against a brute force that shares no code with the SQL."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Year
from oracle import Oracle

from feature_repo.tables import read_table


def sample(frame: pd.DataFrame, rows: int, days: tuple[str, ...]) -> pd.DataFrame:
    """Random rows, and ten of each of the days named."""
    day = frame["event_time"].dt.tz_convert("America/New_York").dt.strftime("%m-%d")
    parts = pd.concat([frame[day == d].sample(10, random_state=1) for d in days])
    rest = frame.drop(index=parts.index).sample(rows - len(parts), random_state=2)
    asked: pd.DataFrame = pd.concat([parts, rest])
    return asked


@pytest.mark.parametrize("name", ["flights", "weather"])
def test_every_feature_equals_the_oracle(name: str, request: pytest.FixtureRequest) -> None:
    """300 requests, every stored feature, exactly."""
    year: Year = request.getfixturevalue(f"{name}_year")
    frame = read_table(year.training_set).to_pandas()
    # Both changes of the clocks, the first day and the last ones (weather's data end on the 30th).
    last = ("12-30", "12-31")[: 2 if name == "flights" else 1]
    asked = sample(frame, 300, ("03-10", "11-03", "01-01", *last))
    names = [spec.name for spec in year.use_case.features]
    differing = []
    rows: list[Any] = asked.to_dict("records")
    oracle = Oracle(year.use_case, rows)
    for row in rows:
        expected = oracle.row(row, int(row["prediction_time"].timestamp()))
        assert oracle.tick(int(row["prediction_time"].timestamp())) == row["tick"].timestamp()
        differing += [
            (row["request_id"], n, expected[n], row[n])
            for n in names
            if expected[n] != row[n] and not (math.isnan(expected[n]) and math.isnan(row[n]))
        ]
    assert asked["request_id"].nunique() == len(asked) == 300
    assert not differing, differing[:5]
    # Each feature had something to say: an oracle that compares nulls proves nothing.
    assert np.all(asked[names].notna().sum() > 50)
