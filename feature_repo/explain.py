"""Why a feature has its value: the events behind it, and what was not yet known.

Nothing of the feature SQL is used but the event logs: ticks, windows, the ttl and every
aggregation are worked out again here, event by event, in plain Python. So an explanation that
gives another value than the stored row has found a fault in one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from feature_repo.asof import rows_at
from feature_repo.contract import FeatureSpec, FeatureView, UseCase
from feature_repo.dialect import to_duckdb
from feature_repo.duckdb_session import connect
from feature_repo.errors import RequestError, StateError
from feature_repo.tables import Table
from feature_repo.ticks import EPOCH, tick_of

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A fact of a log: when it happened (in a scheduled log, when it was planned for), when it
    became known, the first tick that sees it (all in microseconds since the epoch), and the columns
    that the view's features read."""

    happened: int
    known: int
    tick: int
    values: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """One feature: its value by the events, the stored one, and the events, oldest first."""

    spec: FeatureSpec
    value: float | None
    stored: float | None
    events: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainedView:
    """One view: the tick of the row that is read (None: there is none, or it is older than the
    ttl), its features, and what had happened by the question but is not seen at its tick."""

    view: FeatureView
    row: datetime | None
    features: tuple[Explained, ...]
    unseen: tuple[Event, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a question about an entity reads at ``at``; ``left_out`` views need further keys."""

    use_case: UseCase
    entity: Mapping[str, str]
    at: datetime
    tick: datetime
    views: tuple[ExplainedView, ...]
    left_out: tuple[FeatureView, ...]


def parse_entity(text: str, use_case: UseCase) -> dict[str, str]:
    """Entity keys of ``"tailnum=N14228,origin=EWR"``.

    Raises:
        RequestError: not of this form, a key twice, or one that no entity of the use case has.
    """
    known = sorted({key for view in use_case.views for key in view.entity.keys})
    entity: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in entity:
            raise RequestError(
                422, "entities", f"{part!r} is not one key=value of its own; write, for example, "
                f"'{known[0]}=…,{known[-1]}=…'",
            )  # fmt: skip
        if key not in known:
            raise RequestError(
                422, "entities", f"use case {use_case.name!r} has no entity key {key!r}; it has "
                + ", ".join(known),
            )  # fmt: skip
        entity[key] = value
    return entity


def explain(
    use_case: UseCase, tables: list[Table], stored: list[Table], entity: Mapping[str, str],
    at: datetime,
) -> Explanation:  # fmt: skip
    """Explain each feature of the views whose keys ``entity`` names, as asked at ``at`` (aware).

    Args:
        use_case: whose features.
        tables: raw tables that the event logs read.
        stored: feature views.
        entity: values by entity key.
        at: when the question is asked; it reads the tick before, less the lag.

    Raises:
        RequestError: the keys make up no view's entity.
        StateError: no event of the entity had happened by then.
    """
    tick = tick_of(at, tick=use_case.tick, lag=use_case.lag)
    wanted = [v for v in use_case.views if set(v.entity.keys) <= set(entity)]
    if not wanted:
        raise RequestError(
            422, "entities", f"{', '.join(entity)} is not the whole key of any entity; give one of "
            + "; ".join(sorted({", ".join(v.entity.keys) for v in use_case.views})),
        )  # fmt: skip
    with connect(tables) as session:
        events = {
            view.name: _events(session, view, entity, use_case.tick, tick, at) for view in wanted
        }
        if not any(events.values()):
            _refuse_strangers(session, wanted, entity, at)
    rows = _stored(wanted, stored, entity, tick)
    return Explanation(
        use_case=use_case,
        entity=entity,
        at=at,
        tick=tick,
        views=tuple(_view(view, events[view.name], rows, tick) for view in wanted),
        left_out=tuple(v for v in use_case.views if v not in wanted),
    )


def differences(explanation: Explanation) -> list[str]:
    """Features whose stored value is not the one that the events give."""
    return [
        f"{f.spec.name}: stored {f.stored}, by its {len(f.events):,} events {f.value}"
        for view in explanation.views
        for f in view.features
        if f.value != f.stored
    ]


def _events(
    session: duckdb.DuckDBPyConnection, view: FeatureView, entity: Mapping[str, str],
    length: timedelta, tick: datetime, at: datetime,
) -> list[Event]:  # fmt: skip
    """Events of the entity that are seen at ``tick`` or had happened by ``at``, in the order in
    which they became known; those too old to count, or to make a row within the ttl, apart."""
    names = list(dict.fromkeys(n for f in view.features for n in (f.value, f.weight) if n))
    columns = ", ".join(f'"{name}"' for name in names)  # a log may call one "at"
    where = " AND ".join(f'"{key}" = ?' for key in view.entity.keys)
    since = _reach(view, tick, length)
    order = ", ".join(("available_at", "event_timestamp", *view.log.tie_break))
    found = session.execute(
        f"SELECT epoch_us(event_timestamp), epoch_us(available_at), {columns} "
        f"FROM ({to_duckdb(view.log.sql)}) WHERE {where} AND (event_timestamp <= "
        f"TIMESTAMPTZ '{at.isoformat()}' OR available_at <= TIMESTAMPTZ '{tick.isoformat()}') "
        f"AND available_at > TIMESTAMPTZ '{since.isoformat()}' ORDER BY {order}",
        [entity[key] for key in view.entity.keys],
    ).fetchall()
    step = _micros(length)
    return [
        Event(
            happened=happened,
            known=known,
            tick=-(-known // step) * step,
            values=dict(zip(names, values, strict=True)),
        )
        for happened, known, *values in found
    ]


def _reach(view: FeatureView, tick: datetime, length: timedelta) -> datetime:
    """What was known by then counts no more at ``tick``: longest window, ttl of its last row."""
    spans = [f.window for f in view.features if f.window is not None]
    if len(spans) < len(view.features):
        return EPOCH
    # An event is seen up to a tick after it was known.
    return tick - max(spans) - view.ttl - length


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _refuse_strangers(
    session: duckdb.DuckDBPyConnection, views: Sequence[FeatureView],
    entity: Mapping[str, str], at: datetime,
) -> None:  # fmt: skip
    """No event at all had happened by ``at``: the time lies before the data, or the entity has no
    history."""
    begins: list[int] = []
    for view in views:
        own = " AND ".join(f'"{key}" = ?' for key in view.entity.keys)
        when = f"event_timestamp <= TIMESTAMPTZ '{at.isoformat()}'"
        first, known = session.execute(
            f"SELECT min(epoch_us(event_timestamp)), count_if({own} AND {when}) "
            f"FROM ({to_duckdb(view.log.sql)})",
            [entity[key] for key in view.entity.keys],
        ).fetchall()[0]
        if known:
            return
        begins += [] if first is None else [first]
    whom, asked = ", ".join(f"{k}={v}" for k, v in entity.items()), f"{at:%Y-%m-%dT%H:%M:%SZ}"
    start = EPOCH + timedelta(microseconds=min(begins, default=0))
    logs = ", ".join(dict.fromkeys(view.log.name for view in views))
    if at < start:
        raise StateError(
            f"{asked} lies before the data: the first event of the logs {logs} happened at "
            f"{start:%Y-%m-%dT%H:%M:%SZ}; ask for a later time"
        )
    raise StateError(
        f"no event of {whom} had happened by {asked} in the logs {logs}; check the spelling of "
        "the keys, or ask for a later time"
    )


def _stored(
    views: Sequence[FeatureView], stored: list[Table], entity: Mapping[str, str], tick: datetime
) -> dict[str, float | datetime | None]:
    import pyarrow as pa

    columns = {"id": [0], "tick": pa.array([tick], pa.timestamp("us", tz="UTC"))}
    columns |= {key: [value] for key, value in entity.items()}
    (row,) = rows_at(views, stored, pa.table(columns)).to_pylist()
    return dict(row)


def _view(
    view: FeatureView, events: list[Event], rows: Mapping[str, float | datetime | None],
    tick: datetime,
) -> ExplainedView:  # fmt: skip
    now = _micros(tick - EPOCH)
    seen = [event for event in events if event.tick <= now]
    living = _living(view, seen, now)
    features = []
    for spec in view.features:
        behind = _behind(spec, seen, now) if living else ()
        value = _value(spec, behind) if living else None
        stored = rows[spec.name]
        told = None if stored is None or isinstance(stored, datetime) else float(stored)
        features.append(Explained(spec=spec, value=value, stored=told, events=behind))
    row = rows[f"{view.name}_tick"]
    return ExplainedView(
        view=view,
        row=row.astimezone(timezone.utc) if isinstance(row, datetime) else None,
        features=tuple(features),
        unseen=tuple(event for event in events if event.tick > now),
    )


def _living(view: FeatureView, seen: list[Event], now: int) -> bool:
    """Whether the view has a row within its ttl: an event's, or that of one leaving a window."""
    spans = {_micros(f.window) for f in view.features if f.window is not None} | {0}
    rows = (event.tick + span for event in seen for span in spans)
    last = max((row for row in rows if row <= now), default=None)
    return last is not None and now - last <= _micros(view.ttl)


def _behind(spec: FeatureSpec, seen: list[Event], now: int) -> tuple[Event, ...]:
    """Events that a feature's value comes from: in its window, with a value."""
    start = -1 if spec.window is None else now - _micros(spec.window)
    inside = [e for e in seen if e.tick > start and e.values[spec.value] is not None]
    return tuple(inside[-1:] if spec.aggregation == "last" else inside)


def _value(spec: FeatureSpec, events: Sequence[Event]) -> float | None:
    """The aggregation, written again: sums of whole units of the last decimal."""
    values = [e.values[spec.value] for e in events]
    if spec.aggregation == "last":
        return values[-1] if values else None
    if spec.aggregation == "count":
        return float(len(values))
    weights = [e.values[spec.weight] if spec.weight else 1.0 for e in events]
    pairs = [
        (v, w) for v, w in zip(values, weights, strict=True) if v is not None and w is not None
    ]
    unit = float(10**spec.decimals)
    total = sum(round(v * w * unit) for v, w in pairs)
    if spec.aggregation == "sum":
        return total / unit
    weight = sum(round(w * unit) for _, w in pairs)
    return (total / unit) / (weight / unit) if weight else None
