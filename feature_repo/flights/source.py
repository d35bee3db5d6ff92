"""Flights, weather and airports: from raw files to the stored tables that the features read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from feature_repo.ingest import RawData, read_source, refuse_absent
from feature_repo.quarantine import quarantine_frame, refuse_too_many

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# Destinations that airports.csv lacks.
ZONES = {
    "BQN": "America/Puerto_Rico", "PSE": "America/Puerto_Rico", "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}  # fmt: skip


def read(source: str, limit: float = 0.05) -> RawData:
    """Good rows of the raw tables, and the quarantine.

    Raises:
        SourceError: a file cannot be read or breaks its contract (see ``ingest``), too many
            flights go to airports without a time zone, or an origin has no weather at all.
    """
    import pandas as pd

    from feature_repo.flights.schemas import SCHEMAS

    raw = read_source(source, SCHEMAS, limit)
    flights, zones = raw.frames["flights"], _zones(raw.frames["airports"])
    refuse_absent(
        raw.frames["weather"], "origin", flights["origin"], "weather", "flights leave from there"
    )
    lost = ~flights["dest"].isin(zones)
    if not lost.any():
        return raw
    bad = quarantine_frame(
        table="flights", row=flights.index[lost] + 1, column="dest", check="known_airport",
        reason="airports has no time zone for it", value=flights.loc[lost, "dest"],
    )  # fmt: skip
    refuse_too_many(bad, len(flights), limit, "of the table flights")
    quarantine = pd.concat([raw.quarantine, bad], ignore_index=True)
    return replace(raw, frames={**raw.frames, "flights": flights[~lost]}, quarantine=quarantine)


def normalise(frames: Mapping[str, pd.DataFrame]) -> dict[str, pa.Table]:
    """The stored tables: flights with UTC schedules, weather, airports; each ordered by key."""
    import pyarrow as pa

    zones = _zones(frames["airports"])
    made = {
        "flights": _flights(frames["flights"], zones),
        "weather": frames["weather"].sort_values(["origin", "time_hour"]),
        "airports": frames["airports"].sort_values("faa"),
    }
    return {
        name: pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
        for name, frame in made.items()
    }


def _zones(airports: pd.DataFrame) -> dict[str, str]:
    """Time zone by airport code."""
    known = airports.dropna(subset=["tzone"])
    return ZONES | dict(zip(known["faa"], known["tzone"], strict=True))


def _flights(raw: pd.DataFrame, zones: Mapping[str, str]) -> pd.DataFrame:
    """Flights with ``date`` (local), ``scheduled_departure`` and ``scheduled_arrival`` in UTC."""
    import pandas as pd

    departure = raw["time_hour"] + pd.to_timedelta(raw["minute"], unit="min").astype(
        "timedelta64[us]"
    )
    arrival = departure.copy()
    zone = raw["dest"].map(zones)
    minutes = raw["sched_arr_time"] // 100 * 60 + raw["sched_arr_time"] % 100
    for name in zone.unique():
        at = zone == name
        arrival[at] = _first_after(departure[at], minutes[at], str(name))
    date = pd.to_datetime(raw[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    columns = ["carrier", "flight", "tailnum", "origin", "dest", "distance"]
    frame = raw[columns].assign(
        flight=raw["flight"].astype(str), date=date,
        scheduled_departure=departure, scheduled_arrival=arrival,
        dep_delay=raw["dep_delay"], arr_delay=raw["arr_delay"],
    )  # fmt: skip
    return frame.sort_values(["scheduled_departure", "carrier", "flight", "origin"])


def _first_after(departure: pd.Series, minutes: pd.Series, zone: str) -> pd.Series:
    """First instant after departure at which the clock in ``zone`` shows ``minutes`` of the day.

    An hour that the clock skips moves to its end; of an hour that it shows twice, the first
    one after departure counts.
    """
    import pandas as pd

    local = departure.dt.tz_convert(zone).dt.tz_localize(None)
    clock = local.dt.normalize() + pd.to_timedelta(minutes, unit="min").astype("timedelta64[us]")
    clock = clock.where(clock > local, clock + pd.Timedelta(days=1))
    first, second = (
        clock.dt.tz_localize(zone, ambiguous=[flag] * len(clock), nonexistent="shift_forward")
        .dt.tz_convert("UTC")
        for flag in (True, False)
    )  # fmt: skip
    arrival: pd.Series = first.where(first > departure, second)
    return arrival
