"""A question about a flight: its fields, what makes it possible, what is derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.contract import DerivedInput, RequestField
from feature_repo.local_time import local_time, two_digits
from feature_repo.request_rules import RequestRule

if TYPE_CHECKING:
    from feature_repo.contract import Column

ZONE = "America/New_York"
DAY = timedelta(days=1)

FIELDS = (
    RequestField(name="carrier", dtype="string", description="airline, two letters"),
    RequestField(name="origin", dtype="string", description="airport: EWR, JFK or LGA"),
    RequestField(name="dest", dtype="string", description="airport of destination"),
    RequestField(
        name="tailnum", dtype="string", model_input=False, description="aircraft, if assigned"
    ),
    RequestField(
        name="flight", dtype="string", model_input=False, description="flight number"
    ),
    RequestField(
        name="distance", dtype="number", bounds=(1, 12_000), description="miles to the destination"
    ),
    RequestField(
        name="scheduled_departure", dtype="timestamp", description="scheduled departure, UTC"
    ),
    RequestField(name="scheduled_arrival", dtype="timestamp", description="scheduled arrival, UTC"),
)  # fmt: skip


def arrives_after_it_departs(fields: Mapping[str, Any], _: datetime) -> bool:
    """And within a day."""
    span: timedelta = fields["scheduled_arrival"] - fields["scheduled_departure"]
    return timedelta(0) < span <= DAY


def departs_within_a_day(fields: Mapping[str, Any], asked: datetime) -> bool:
    """The model knows flights an hour ahead; of one months ahead it knows nothing."""
    ahead: timedelta = fields["scheduled_departure"] - asked
    return timedelta(0) <= ahead <= DAY


RULES = (
    RequestRule(
        field="scheduled_arrival", says="must be after the scheduled departure, within a day",
        holds=arrives_after_it_departs,
    ),
    RequestRule(
        field="scheduled_departure",
        says="must not be before the prediction time, nor more than a day after it",
        holds=departs_within_a_day,
    ),
)  # fmt: skip


def local_hour(columns: Mapping[str, Column]) -> Column:
    """Hour of the scheduled departure on New York's clock, '00' to '23'."""
    local = local_time(columns["scheduled_departure"], ZONE)
    return two_digits(local.astype(np.int64) // 3600 % 24)


def local_weekday(columns: Mapping[str, Column]) -> Column:
    """Weekday of the scheduled departure on New York's clock, '0' (Monday) to '6'."""
    local = local_time(columns["scheduled_departure"], ZONE)
    # The epoch's first day was a Thursday.
    days: Column = ((local.astype(np.int64) // 86_400 + 3) % 7).astype(str)
    return days


def local_minute(columns: Mapping[str, Column]) -> Column:
    """Minute of the day of the scheduled departure on New York's clock."""
    local = local_time(columns["scheduled_departure"], ZONE)
    minutes: Column = (local.astype(np.int64) // 60 % 1440).astype(np.float64)
    return minutes


def scheduled_minutes(columns: Mapping[str, Column]) -> Column:
    """Scheduled duration, gate to gate, in minutes."""
    span = columns["scheduled_arrival"] - columns["scheduled_departure"]
    minutes: Column = span.astype("timedelta64[s]").astype(np.float64) / 60
    return minutes


DERIVED = (
    DerivedInput(name="local_hour", function=local_hour, categorical=True),
    DerivedInput(name="local_weekday", function=local_weekday, categorical=True),
    DerivedInput(name="local_minute", function=local_minute),
    DerivedInput(name="scheduled_minutes", function=scheduled_minutes),
)

REQUESTS = """
  select concat_ws('_', date, carrier, flight, origin) as request_id,
    scheduled_departure - interval '60' minute as prediction_time,
    scheduled_departure as event_time,
    carrier, origin, dest, tailnum, flight, distance,
    scheduled_departure, scheduled_arrival,
    case when arr_delay > 15 then 1.0D when arr_delay is not null then 0.0D end as label,
    scheduled_arrival + arr_delay * interval '1' minute + interval '15' minute
      as label_available_at,
    arr_delay
  from flights
"""
