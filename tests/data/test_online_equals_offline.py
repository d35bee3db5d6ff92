"""The online store, read as the server reads it, holds what the training set says: exactly."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.home import Home
from feature_repo.online_rows import rows_of
from feature_repo.store import materialise
from feature_repo.tables import read_table
from serving.online import OnlineStore

INSTANTS = (
    datetime(2013, 12, 23, 20, 0, tzinfo=timezone.utc),
    datetime(2013, 11, 3, 14, 0, tzinfo=timezone.utc),  # the day on which summer time ended
)


@pytest.mark.parametrize("use_case", ["flights", "weather"])
@pytest.mark.parametrize("instant", INSTANTS)
def test_every_request_of_a_tick_reads_online_what_it_read_offline(
    use_case: str, instant: datetime, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    year = request.getfixturevalue(f"{use_case}_year")
    rows = read_table(year.training_set)
    until = pa.scalar(instant, rows.schema.field("tick").type)
    tick = pc.max(rows.filter(pc.less_equal(rows["tick"], until))["tick"])
    rows = rows.filter(pc.equal(rows["tick"], tick))
    materialise(Home(root=tmp_path), year.use_case, year.views, tick.as_py())
    names = [f.name for f in year.use_case.fields]
    store = OnlineStore(rows_of(Home(root=tmp_path), year.use_case), year.use_case)
    assert store.tick == tick.as_py()
    online = store.read(rows.select(names).to_pylist())
    some = False
    for spec in year.use_case.features:
        offline = rows[spec.name].to_numpy().astype(np.float64)
        np.testing.assert_array_equal(online.columns[spec.name], offline, err_msg=spec.name)
        some |= bool(np.isfinite(offline).any())
    assert some
