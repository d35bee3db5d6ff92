"""What a use case declares: entities, event logs, features, request fields, gate rules.

Frozen data classes and nothing else (their rules are in ``checks``) without any framework: the
server, the Flyte tasks and Feast derive their view of a use case from the same objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from feature_repo.checks import check
from feature_repo.declaration import canonical
from feature_repo.model import AuxiliaryTargets, ModelBuilder
from feature_repo.request_rules import Policy, RequestRule

if TYPE_CHECKING:
    import numpy as np

    Column = np.ndarray[tuple[int], np.dtype[Any]]

Aggregation = Literal["count", "sum", "mean", "last"]
Task = Literal["binary", "regression"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """What a feature is about. ``keys`` are columns of the event logs and fields of a request."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawTable:
    """A stored table that the event logs and requests read, one part a month of ``time``.

    ``key`` are the columns that no two rows share. ``time`` is a UTC instant; None: one part.
    """

    name: str
    key: tuple[str, ...]
    time: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventLog:
    """Facts with the instant each happened and the instant each could first be known.

    ``sql`` is one SELECT in Spark's dialect over the use case's raw tables. It yields the key
    columns of every entity that reads the log, ``event_timestamp`` and ``available_at`` (UTC
    timestamps), the columns of ``tie_break`` and the value columns. A feature view (one entity
    over one log) whose row is older than ``ttl`` at the tick reads as missing, but never while
    its longest window may still hold an event. ``scheduled``: its facts may lie ahead (a
    timetable), so they do not say how far the data reach.

    ``fresh_within`` is a promise about the source: how old the newest ``available_at`` may be
    when features are computed. No model reads it, so it is no part of the declaration.
    """

    name: str
    sql: str
    tie_break: tuple[str, ...]
    ttl: timedelta
    fresh_within: timedelta = field(compare=False)
    scheduled: bool = field(default=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """One feature, declared once; SQL, Pandera columns and Feast fields derive from it.

    ``value`` and ``weight`` name columns of the log. At tick T a feature sees the events with
    ``available_at`` in (T - window, T]; ``window=None`` means all up to T.

    * ``count``: events whose value is not null; ``sum``: sum of value
    * ``mean``: sum(value * weight) / sum(weight), null when the weights sum to zero
    * ``last``: the last value to become known that is not null (no window); ties are broken
      by ``available_at``, then ``event_timestamp``, then the log's tie-break columns

    Sums and means are exact, whatever the order of rows: each value (times its weight) counts
    with ``decimals`` places after the point, and one that has more is refused, not rounded.
    Whole digits and decimals are 18 together.

    ``as_age=True``: the value is an instant in epoch seconds, and the model reads the minutes
    from it to the tick. ``default`` replaces a null before the model; with ``None`` the
    training mean does, and a missing indicator says so. ``bounds`` are those of the stored
    value, in the value's unit.
    """

    name: str
    entity: Entity
    log: EventLog
    value: str
    aggregation: Aggregation
    window: timedelta | None = None
    weight: str | None = None
    decimals: int = 3
    as_age: bool = False
    default: float | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    description: str = ""

    @property
    def view(self) -> str:
        """Name of the feature view that stores this feature."""
        return f"{self.entity.name}_{self.log.name}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The sums that it is made of: a numerator, a denominator, or both."""
        sums = {"count": ("bottom",), "sum": ("top",), "mean": ("top", "bottom")}
        return sums.get(self.aggregation, ())


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestField:
    """A fact that the caller states: an entity key or a request-time field.

    ``model_input=False`` keeps a field out of the model (it only identifies or derives).
    Strings are categorical inputs, numbers are numeric ones; a timestamp is never an input.
    """

    name: str
    dtype: Literal["string", "number", "timestamp"]
    model_input: bool = True
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedInput:
    """A model input computed from request fields, by the same function offline and online.

    ``function`` takes the request's columns (numpy arrays of length n; timestamps are
    ``datetime64[s]`` in UTC) and returns n values: numbers, or strings when categorical.
    """

    name: str
    function: Callable[[Mapping[str, Column]], Column]
    categorical: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRule:
    """One rule of the gate, as data. ``metric`` is a dotted path into the evaluation.

    ``>=`` and ``<=`` compare it with ``limit``. A rule on a metric that the evaluation lacks
    fails, unless ``optional`` (for example a comparison with a champion when there is none).
    """

    name: str
    metric: str
    operator: Literal[">=", "<="]
    limit: float
    optional: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureView:
    """The features of one entity over one event log: one stored table, one Feast view."""

    name: str
    entity: Entity
    log: EventLog
    features: tuple[FeatureSpec, ...]

    @property
    def reach(self) -> timedelta:
        """How far back its windows look."""
        return max((f.window for f in self.features if f.window is not None), default=timedelta(0))

    @property
    def ttl(self) -> timedelta:
        """How old a row may be at the tick that reads it. Until its longest window is over, a row
        counts events that are still in it, so it is never older than its data."""
        return max(self.log.ttl, self.reach)

    @property
    def carried(self) -> tuple[str, ...]:
        """Columns of the sums that go on for ever, stored beside the features."""
        return tuple(f"{f.name}_{part}" for f in self.endless for part in f.parts)

    @property
    def endless(self) -> tuple[FeatureSpec, ...]:
        """Its sums that have no window."""
        return tuple(f for f in self.features if f.parts and f.window is None)

    @property
    def continued(self) -> bool:
        """Whether a row needs the entity's row before it, not just the events in reach."""
        return bool(self.carried) or any(f.aggregation == "last" for f in self.features)


@dataclass(frozen=True, kw_only=True, slots=True)
class UseCase:
    """Everything that makes one prediction problem, and nothing about how it is run.

    ``requests_sql`` (Spark's dialect, over the raw tables) yields one row a request that could
    have been made: ``request_id`` (unique string), ``prediction_time`` and ``event_time``
    (UTC; splits go by the latter), every field of ``fields``, ``label`` (double, null when
    there is none) and ``label_available_at``. ``auxiliary``: what training learns beside the label;
    the use case's own ``model`` does where it says so. ``tick`` and ``lag`` are the tick rule of
    ``feature_repo.ticks``. ``stale_after``: how far the online store may lie behind the
    request's tick before ``stale_policy`` applies; ``outage_policy``: where it does not answer;
    ``missing_policy``: where a view has no living row. ``rules`` make a request possible.
    ``identity``: fields that together name what is asked about, by which a label finds its answers;
    empty: all that are no numbers. ``schemas``, imported inside: each table's Pandera contract.
    """

    name: str
    description: str
    owner: str
    task: Task
    label: str
    unit: str
    intended_use: str
    limitations: str
    tables: tuple[RawTable, ...]
    requests_sql: str
    fields: tuple[RequestField, ...]
    derived: tuple[DerivedInput, ...]
    features: tuple[FeatureSpec, ...]
    slices: tuple[str, ...]
    gate: tuple[GateRule, ...]
    tick: timedelta = timedelta(minutes=15)
    lag: timedelta = timedelta(minutes=5)
    stale_after: timedelta = timedelta(minutes=30)
    stale_policy: Policy = "refuse"
    missing_policy: Policy = "serve"
    outage_policy: Policy = "refuse"
    rules: tuple[RequestRule, ...] = ()
    identity: tuple[str, ...] = ()
    quarantine_limit: float = 0.05
    threshold: float = 0.5
    retention: timedelta = timedelta(days=90)
    model: ModelBuilder | None = None
    auxiliary: AuxiliaryTargets | None = None
    schemas: Callable[[], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def views(self) -> tuple[FeatureView, ...]:
        """Feature views, in the order of their first feature."""
        grouped: dict[str, list[FeatureSpec]] = {}
        for spec in self.features:
            grouped.setdefault(spec.view, []).append(spec)
        return tuple(
            FeatureView(name=name, entity=specs[0].entity, log=specs[0].log, features=tuple(specs))
            for name, specs in grouped.items()
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """Columns of a training set that only training reads: that of the auxiliary targets."""
        return (self.auxiliary.column,) if self.auxiliary else ()

    @property
    def service(self) -> str:
        """Name of the feature service and of its online store: another declaration, another one."""
        return f"{self.name}_{self.declaration[:12]}"

    @property
    def declaration(self) -> str:
        """Digest of what a model reads and answers: the feature service's version.

        Functions count with their code (comments and layout apart), the functions that they call
        and the constants that they read, so a server whose derived inputs differ from those that
        a model was trained on can tell.
        """
        served = (
            self.name, self.task, self.label, self.requests_sql, self.fields, self.derived,
            self.features, self.tick, self.lag, *self.measures,
        )  # fmt: skip
        return hashlib.sha256(canonical(served).encode()).hexdigest()
