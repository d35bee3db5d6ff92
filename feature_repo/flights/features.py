"""Flights from New York: will this one arrive more than 15 minutes late? Asked an hour before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

from feature_repo.contract import (
    Entity,
    EventLog,
    FeatureSpec,
    GateRule,
    RawTable,
    UseCase,
)
from feature_repo.flights.logs import (
    ARRIVALS,
    DEPARTURES,
    INBOUND,
    PENDING,
    SCHEDULE,
    WEATHER,
)
from feature_repo.flights.requests import DERIVED, FIELDS, REQUESTS, RULES
from feature_repo.model import AuxiliaryTargets

DELAY = (-180.0, 2880.0)
SHARE = (0.0, 1.0)
COUNT = (0.0, 100_000.0)
INSTANT = (0.0, 4_102_444_800.0)  # epoch seconds, up to the year 2100

ORIGIN = Entity(name="origin", keys=("origin",))
CARRIER = Entity(name="carrier", keys=("carrier",))
CARRIER_ORIGIN = Entity(name="carrier_origin", keys=("carrier", "origin"))
DEST = Entity(name="dest", keys=("dest",))
CARRIER_DEST = Entity(name="carrier_dest", keys=("carrier", "dest"))
ROUTE = Entity(name="route", keys=("origin", "dest"))
TAIL = Entity(name="tail", keys=("tailnum",))
LINE = Entity(name="line", keys=("carrier", "flight", "origin"))

WEEK, FOUR_WEEKS = 7 * 24, 28 * 24
MEANS = {
    "arr_delay": (ARRIVALS, DELAY, "mean arrival delay in minutes"),
    "late": (ARRIVALS, SHARE, "share of arrivals more than 15 minutes late"),
    "dep_delay": (DEPARTURES, DELAY, "mean departure delay in minutes"),
}
COUNTS = {
    "departures": (DEPARTURES, "dep_delay", "departures"),
    "legs": (DEPARTURES, "dep_delay", "legs flown from New York"),
    "scheduled": (SCHEDULE, "scheduled", "scheduled departures that came within two hours"),
    "inbound": (INBOUND, "scheduled", "scheduled arrivals that came within two hours"),
}


def _span(hours: int) -> str:
    """24h, 7d."""
    return f"{hours}h" if hours <= 24 else f"{hours // 24}d"


def _means(entity: Entity, value: str, *hours: int) -> tuple[FeatureSpec, ...]:
    """A mean of an entity's flights over each of several windows."""
    log, bounds, text = MEANS[value]
    return tuple(
        FeatureSpec(
            name=f"{entity.name}_{value}_{_span(h)}", entity=entity, log=log, value=value,
            aggregation="mean", window=timedelta(hours=h), bounds=bounds,
            description=f"{text}: {entity.name}, last {_span(h)}",
        )
        for h in hours
    )  # fmt: skip


def _counts(entity: Entity, what: str, *hours: int) -> tuple[FeatureSpec, ...]:
    """How many flights of an entity, over each of several windows."""
    log, value, text = COUNTS[what]
    return tuple(
        FeatureSpec(
            name=f"{entity.name}_{what}_{_span(h)}", entity=entity, log=log, value=value,
            aggregation="count", window=timedelta(hours=h), default=0.0, bounds=COUNT,
            description=f"{text}: {entity.name}, last {_span(h)}",
        )
        for h in hours
    )  # fmt: skip


def _pending(entity: Entity) -> tuple[FeatureSpec, ...]:
    """Flights that should have left and have not, as far as is known."""
    return (
        FeatureSpec(
            name=f"{entity.name}_pending_count", entity=entity, log=PENDING, value="delta",
            aggregation="sum", default=0.0, bounds=COUNT,
            description=f"{entity.name}: flights past their scheduled departure, not reported out",
        ),
        FeatureSpec(
            name=f"{entity.name}_pending_wait", entity=entity, log=PENDING, value="scheduled",
            weight="delta", aggregation="mean", as_age=True, default=0.0, bounds=INSTANT,
            description=f"{entity.name}: mean scheduled departure of the pending flights",
        ),
    )  # fmt: skip


def _last(
    name: str, entity: Entity, log: EventLog, value: str, bounds: tuple[float, float], text: str
) -> FeatureSpec:
    """The last known value of a log; instants are read as ages."""
    return FeatureSpec(
        name=name, entity=entity, log=log, value=value, aggregation="last",
        as_age=bounds == INSTANT, bounds=bounds, description=text,
    )  # fmt: skip


def _weather(value: str, low: float, high: float, text: str) -> FeatureSpec:
    """Last weather at the origin."""
    return _last(f"origin_{value}", ORIGIN, WEATHER, value, (low, high), f"{text} at the origin")


OBSERVED = (
    ("temp", -60, 135, "temperature in °F"),
    ("dewp", -80, 135, "dew point in °F"),
    ("wind_north", -200, 200, "wind from the north in mph"),
    ("wind_east", -200, 200, "wind from the east in mph"),
    ("wind_speed", 0, 200, "wind in mph"),
    ("visib", 0, 100, "visibility in miles"),
    ("precip", 0, 12, "precipitation in inches"),
    ("pressure", 860, 1090, "pressure in hPa"),
    ("humid", 0, 100, "relative humidity in %"),
)

FEATURES = (
    *(spec for entity in (ORIGIN, CARRIER_ORIGIN, DEST) for spec in _pending(entity)),
    *_counts(ORIGIN, "scheduled", 1),
    *_counts(DEST, "inbound", 1),
    *(
        spec
        for entity in (ORIGIN, CARRIER_ORIGIN)
        for value in MEANS
        for spec in _means(entity, value, 1, 3, 24)
    ),
    *(spec for e in (ORIGIN, CARRIER_ORIGIN) for spec in _counts(e, "departures", 1, 3, 24)),
    *_means(CARRIER, "arr_delay", 1, 3, 24, WEEK),
    *_means(CARRIER, "dep_delay", 1, 3, 24, WEEK),
    *_means(DEST, "arr_delay", 1, 3, 24),
    *_means(CARRIER_DEST, "arr_delay", 24, FOUR_WEEKS),
    *_means(ROUTE, "arr_delay", 24, WEEK, FOUR_WEEKS),
    *_means(LINE, "arr_delay", FOUR_WEEKS),
    *_means(LINE, "late", FOUR_WEEKS),
    *_means(TAIL, "arr_delay", 24, WEEK, FOUR_WEEKS),
    *_means(TAIL, "dep_delay", 24),
    *_counts(TAIL, "legs", 24),
    _last("tail_arr_delay", TAIL, ARRIVALS, "arr_delay", DELAY, "aircraft: last arrival delay"),
    _last("tail_arr_age", TAIL, ARRIVALS, "at", INSTANT, "aircraft: last arrival"),
    _last("tail_dep_delay", TAIL, DEPARTURES, "dep_delay", DELAY, "aircraft: last dep. delay"),
    _last("tail_dep_age", TAIL, DEPARTURES, "at", INSTANT, "aircraft: last departure"),
    *(_weather(*facts) for facts in OBSERVED),
    _last("weather_age", ORIGIN, WEATHER, "observed", INSTANT, "hour of the weather observation"),
)


def schemas() -> Mapping[str, Any]:
    """The contract of each raw table; Pandera's import takes seconds, and few need it."""
    from feature_repo.flights.schemas import SCHEMAS

    return SCHEMAS


def _rule(name: str, metric: str, operator: Literal[">=", "<="], limit: float) -> GateRule:
    return GateRule(name=name, metric=metric, operator=operator, limit=limit)


BESIDE = "fallback.versus_constant."

FLIGHTS = UseCase(
    name="flights",
    description="Probability that a flight from New York arrives more than 15 minutes late.",
    owner="operations research",
    task="binary",
    label="arrival more than 15 minutes late",
    unit="probability",
    intended_use=(
        "Planning of gates, crews and connections from 60 minutes before scheduled departure; "
        "a person decides."
    ),
    limitations=(
        "Learned on departures of 2013 from EWR, JFK and LGA; the aircraft's legs between other "
        "airports are not seen; the tail number is taken as assigned by then; cancelled and "
        "diverted flights have no label."
    ),
    tables=(
        RawTable(
            name="flights", key=("date", "carrier", "flight", "origin"), time="scheduled_departure"
        ),
        RawTable(name="weather", key=("origin", "time_hour"), time="time_hour"),
        RawTable(name="airports", key=("faa",)),
    ),
    requests_sql=REQUESTS,
    auxiliary=AuxiliaryTargets(column="arr_delay", above=(-15.0, -5.0, 5.0, 30.0, 60.0, 120.0)),
    fields=FIELDS,
    derived=DERIVED,
    features=FEATURES,
    identity=("carrier", "flight", "origin", "scheduled_departure"),
    rules=RULES,
    # An aircraft without history is no fault: the model has learned from such flights.
    stale_policy="fallback",
    outage_policy="fallback",
    missing_policy="serve",
    slices=("origin", "carrier", "month"),
    gate=(
        _rule("ranks well", "test.auc", ">=", 0.765),
        _rule("is sure where it is right", "test.log_loss", "<=", 0.470),
        _rule("is calibrated", "test.ece", "<=", 0.05),
        _rule("holds on each origin", "slice_min.origin.auc", ">=", 0.72),
        _rule("beats the logistic reference", "versus_reference.auc.low", ">=", 0.0),
        GateRule(
            name="is no worse than the champion", metric="versus_champion.log_loss.high",
            operator="<=", limit=0.005, optional=True,
        ),
        _rule("the fallback ranks better than a constant", BESIDE + "auc.low", ">=", 0.0),
        _rule("the fallback is surer than a constant", BESIDE + "log_loss.difference", "<=", 0.0),
    ),
    schemas=schemas,
)  # fmt: skip
