"""The flights use case's own tasks: raw files to typed frames, typed frames to stored tables."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from flytekit import dynamic, task
from pandera.typing import DataFrame

from feature_repo.flights.schemas import Airports, Flights, Weather
from feature_repo.flights.source import normalise, read
from feature_repo.registry import get_use_case
from tasks.cache import code_cache
from tasks.ingest import (
    Ingested,
    Quarantine,
    ingestion_message,
    quarantined,
    refuse_changed,
    store_tables,
)
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import State

CODE = (
    "feature_repo.flights",
    "feature_repo.ingest",
    "feature_repo.parsing",
    "feature_repo.quarantine",
    "feature_repo.tables",
    "tasks.ingest",
    "tasks.flights",
)


class RawFlights(NamedTuple):
    """Rows that keep their contracts, those that do not, and how many there were."""

    flights: DataFrame[Flights]
    weather: DataFrame[Weather]
    airports: DataFrame[Airports]
    quarantine: DataFrame[Quarantine]
    rows_read: int


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def read_flights(source: str, digest: str) -> RawFlights:
    """Read a source and hold it against the contracts.

    Raises:
        SourceError: a file breaks its contract as a whole, or too many rows do; or the source
            is no longer the one of ``digest``.
    """
    with step("read") as s:
        raw = read(source, get_use_case("flights").quarantine_limit)
        refuse_changed("flights", source, digest)
        frames = raw.frames
        s.say(f"{raw.rows_read:,} rows of {', '.join(frames)} held against their contracts")
    return RawFlights(
        DataFrame[Flights](frames["flights"]),
        DataFrame[Weather](frames["weather"]),
        DataFrame[Airports](frames["airports"]),
        DataFrame[Quarantine](raw.quarantine),
        raw.rows_read,
    )


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30))
def store_flights(
    state: State,
    flights: DataFrame[Flights],
    weather: DataFrame[Weather],
    airports: DataFrame[Airports],
    quarantine: DataFrame[Quarantine],
    rows_read: int,
) -> Ingested:
    """Store the tables that the features read, with schedules in UTC, and the quarantine."""
    with step("ingest") as s:
        tables = normalise({"flights": flights, "weather": weather, "airports": airports})
        stored, bad = store_tables(state, "flights", tables, quarantine)
        s.say(ingestion_message(rows_read, quarantine))
    return Ingested(stored, bad, rows_read, quarantined(quarantine), s.record)


@dynamic(
    cache=code_cache(*CODE, libraries=("pandas", "pandera", "polars", "pyarrow")),
    requests=DATA,
    retries=2,
    timeout=timedelta(hours=1),
)
def ingest_flights(state: State, source: str, digest: str) -> Ingested:
    """Read and store a source; skipped when ``digest`` says that it has not changed."""
    raw = read_flights(source=source, digest=digest)
    return store_flights(
        state=state,
        flights=raw.flights,
        weather=raw.weather,
        airports=raw.airports,
        quarantine=raw.quarantine,
        rows_read=raw.rows_read,
    )
