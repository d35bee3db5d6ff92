"""Versions of the weather's features as of June 2013, and how they come about."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
from conftest import Year

from feature_repo import offline
from feature_repo.home import Home
from feature_repo.tables import read_table, write_raw

JUNE = datetime(2013, 6, 10, tzinfo=timezone.utc)


def weather(year: Year, until: datetime) -> pa.Table:
    """Observations that are known at ``until``."""
    table = read_table(year.tables[0])
    over = table["time_hour"].to_numpy() + np.timedelta64(1, "h")
    return table.filter(pa.array(over <= np.datetime64(until.replace(tzinfo=None))))


def ingest(home: Home, year: Year, until: datetime, raw: pa.Table | None = None) -> offline.Version:
    """A version of what is known at ``until``."""
    table = weather(year, until) if raw is None else raw
    stored = [write_raw(home, year.use_case.tables[0], table)]
    return offline.update(home, year.use_case, stored, until=until)


def corrected(table: pa.Table, row: int) -> pa.Table:
    """The table with another temperature in one row."""
    temp = table["temp"].to_numpy().copy()
    temp[row] += 5.0
    return table.set_column(table.schema.get_field_index("temp"), "temp", pa.array(temp))


def write_story(home: Home, year: Year) -> Home:
    """Three versions: up to the tenth of June, the next day, and a correction of an old hour."""
    ingest(home, year, JUNE)
    tomorrow = JUNE + timedelta(days=1)
    ingest(home, year, tomorrow)
    ingest(home, year, tomorrow, corrected(weather(year, tomorrow), 100))
    return home
