"""Contract of the raw weather table. ``unique`` is its key; further columns are ignored."""

from typing import Annotated

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

ORIGINS = ("EWR", "JFK", "LGA")  # each is in every source
Instant = Annotated[pd.DatetimeTZDtype, "us", "UTC"]


class Weather(pa.DataFrameModel):
    """Hourly weather at each airport: degrees Fahrenheit, mph, inches, miles, hPa, per cent."""

    origin: Series[str] = pa.Field(str_length={"min_value": 3, "max_value": 3})
    time_hour: Series[Instant]
    temp: Series[float] = pa.Field(nullable=True, in_range={"min_value": -60, "max_value": 135})
    dewp: Series[float] = pa.Field(nullable=True, in_range={"min_value": -80, "max_value": 100})
    humid: Series[float] = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 100})
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


SCHEMAS: dict[str, type[pa.DataFrameModel]] = {"weather": Weather}
