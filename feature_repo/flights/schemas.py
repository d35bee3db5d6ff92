"""Contracts of the raw tables. ``unique`` is the key; further columns of a file are ignored."""

from typing import Annotated

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

_BEGINS, _ENDS = pd.Timedelta(hours=-14), pd.Timedelta(hours=36)
Instant = Annotated[pd.DatetimeTZDtype, "us", "UTC"]


class Flights(pa.DataFrameModel):
    """Departures from New York. Delays are minutes; ``time_hour`` is the scheduled hour in UTC."""

    year: Series[int] = pa.Field(in_range={"min_value": 1980, "max_value": 2100})
    month: Series[int] = pa.Field(in_range={"min_value": 1, "max_value": 12})
    day: Series[int] = pa.Field(in_range={"min_value": 1, "max_value": 31})
    sched_arr_time: Series[int] = pa.Field(
        in_range={"min_value": 0, "max_value": 2400}, description="local hhmm at the destination"
    )
    dep_delay: Series[float] = pa.Field(
        nullable=True, in_range={"min_value": -120, "max_value": 2880}
    )
    arr_delay: Series[float] = pa.Field(
        nullable=True, in_range={"min_value": -180, "max_value": 2880}
    )
    carrier: Series[str] = pa.Field(str_length={"min_value": 2, "max_value": 3})
    flight: Series[int] = pa.Field(in_range={"min_value": 1, "max_value": 9999})
    tailnum: Series[str] = pa.Field(nullable=True)
    origin: Series[str] = pa.Field(str_length={"min_value": 3, "max_value": 3})
    dest: Series[str] = pa.Field(str_length={"min_value": 3, "max_value": 3})
    distance: Series[float] = pa.Field(in_range={"min_value": 1, "max_value": 12_000})
    minute: Series[int] = pa.Field(in_range={"min_value": 0, "max_value": 59})
    time_hour: Series[Instant]

    @pa.check("sched_arr_time", name="clock_time")
    def _has_minutes(cls, times: pd.Series) -> pd.Series:  # noqa: N805 - pandera's class method
        return times % 100 < 60

    @pa.dataframe_check(name="real_date", description="year+month+day")
    def _is_a_date(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera's class method
        return _dates(rows).notna()

    @pa.dataframe_check(name="time_hour_on_its_date", description="year+month+day+time_hour")
    def _is_on_its_date(cls, rows: pd.DataFrame) -> pd.Series:  # noqa: N805 - pandera's class method
        """Wherever the origin lies: a date begins 14 hours before UTC's and ends 12 after it."""
        into = rows["time_hour"] - _dates(rows)
        return into.isna() | into.between(_BEGINS, _ENDS, inclusive="left")

    class Config:
        """Of two rows with one key, the first is kept."""

        strict = "filter"
        coerce = True
        unique = ("year", "month", "day", "carrier", "flight", "origin")


class Weather(pa.DataFrameModel):
    """Hourly weather at each origin: degrees Fahrenheit, mph, inches, miles, hPa, per cent."""

    origin: Series[str] = pa.Field(str_length={"min_value": 3, "max_value": 3})
    time_hour: Series[Instant]
    temp: Series[float] = pa.Field(nullable=True, in_range={"min_value": -60, "max_value": 135})
    dewp: Series[float] = pa.Field(nullable=True, in_range={"min_value": -80, "max_value": 100})
    humid: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 100})
    wind_dir: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 360})
    wind_speed: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 200})
    precip: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 12})
    pressure: Series[float] = pa.Field(
        nullable=True, in_range={"min_value": 860, "max_value": 1090}
    )
    visib: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 100})

    class Config:
        """Of two rows with one key, the first is kept."""

        strict = "filter"
        coerce = True
        unique = ("origin", "time_hour")


class Airports(pa.DataFrameModel):
    """Time zones of airports; a flight to one without a zone is quarantined."""

    faa: Series[str] = pa.Field(str_length={"min_value": 3, "max_value": 4})
    tzone: Series[str] = pa.Field(nullable=True)

    @pa.check("tzone", name="known_time_zone")
    def _is_known(cls, zones: pd.Series) -> pd.Series:  # noqa: N805 - pandera's class method
        return zones.map({zone: _known_zone(zone) for zone in zones.unique()})

    class Config:
        """Of two rows with one key, the first is kept."""

        strict = "filter"
        coerce = True
        unique = ("faa",)


SCHEMAS: dict[str, type[pa.DataFrameModel]] = {
    "flights": Flights, "weather": Weather, "airports": Airports,
}  # fmt: skip


def _dates(rows: pd.DataFrame) -> pd.Series:
    """Midnight of each row's date, in UTC; NaT for one that no calendar has."""
    return pd.to_datetime(rows[["year", "month", "day"]], errors="coerce", utc=True)


def _known_zone(name: str) -> bool:
    """Whether times can be told in the zone."""
    try:
        pd.Timestamp(0, tz=name)
    except Exception:  # pandas, pytz and zoneinfo each raise a class of their own
        return False
    return True
