"""The weather use case's own tasks: raw file to typed frame, typed frame to stored table."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from flytekit import dynamic, task
from pandera.typing import DataFrame

from feature_repo.registry import get_use_case
from feature_repo.weather.schemas import Weather
from feature_repo.weather.source import normalise, read
from tasks.cache import code_cache
from tasks.ingest import (
    Ingested,
    Quarantine,
    ingestion_message,
    quarantined,
    refuse_changed,
    store_tables,
)
from tasks.resources import SMALL
from tasks.steps import step
from tasks.types import State

CODE = (
    "feature_repo.weather",
    "feature_repo.ingest",
    "feature_repo.parsing",
    "feature_repo.quarantine",
    "feature_repo.tables",
    "tasks.ingest",
    "tasks.weather",
)


class RawWeather(NamedTuple):
    """Rows that keep the contract, those that do not, and how many there were."""

    weather: DataFrame[Weather]
    quarantine: DataFrame[Quarantine]
    rows_read: int


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=30))
def read_weather(source: str, digest: str) -> RawWeather:
    """Read a source and hold it against the contract.

    Raises:
        SourceError: the file breaks its contract as a whole, or too many rows do; or the source
            is no longer the one of ``digest``.
    """
    with step("read") as s:
        raw = read(source, get_use_case("weather").quarantine_limit)
        refuse_changed("weather", source, digest)
        s.say(f"{raw.rows_read:,} rows of weather held against its contract")
    return RawWeather(
        DataFrame[Weather](raw.frames["weather"]),
        DataFrame[Quarantine](raw.quarantine),
        raw.rows_read,
    )


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=30))
def store_weather(
    state: State, weather: DataFrame[Weather], quarantine: DataFrame[Quarantine], rows_read: int
) -> Ingested:
    """Store the table that the features read, and the quarantine."""
    with step("ingest") as s:
        stored, bad = store_tables(state, "weather", normalise({"weather": weather}), quarantine)
        s.say(ingestion_message(rows_read, quarantine))
    return Ingested(stored, bad, rows_read, quarantined(quarantine), s.record)


@dynamic(
    cache=code_cache(*CODE, libraries=("pandas", "pandera", "polars", "pyarrow")),
    requests=SMALL,
    retries=2,
    timeout=timedelta(hours=1),
)
def ingest_weather(state: State, source: str, digest: str) -> Ingested:
    """Read and store a source; skipped when ``digest`` says that it has not changed."""
    raw = read_weather(source=source, digest=digest)
    return store_weather(
        state=state, weather=raw.weather, quarantine=raw.quarantine, rows_read=raw.rows_read
    )
