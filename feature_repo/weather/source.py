"""Hourly weather: from the raw file to the stored table that the features read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from feature_repo.ingest import RawData, read_source, refuse_absent

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def read(source: str, limit: float = 0.05) -> RawData:
    """Good rows of the raw table, and the quarantine.

    Raises:
        SourceError: the file cannot be read, breaks its contract as a whole, or lacks an airport.
    """
    from feature_repo.weather.schemas import ORIGINS, SCHEMAS

    raw = read_source(source, SCHEMAS, limit)
    why = "the use case forecasts for each of them"
    refuse_absent(raw.frames["weather"], "origin", ORIGINS, "weather", why)
    return raw


def normalise(frames: Mapping[str, pd.DataFrame]) -> dict[str, pa.Table]:
    """The stored table, in order of its key."""
    import pyarrow as pa

    frame = frames["weather"].sort_values(["origin", "time_hour"])
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return {"weather": table.replace_schema_metadata()}
