"""Features at request time: all views of all requests in one round trip, as of one tick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import StateError
from feature_repo.packed import (
    STATE,
    TIMES,
    RowFormat,
    StoreState,
    entity_key,
    row_format,
    unpack_state,
)

if TYPE_CHECKING:
    from feature_repo.contract import FeatureView, UseCase
    from feature_repo.inputs import Array
    from feature_repo.online_rows import RowReader

_WORD = 8  # bytes of each number in a row
_HEAD = TIMES // _WORD


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineFeatures:
    """Stored features of n requests as of ``tick`` (aware), and how old the reader's copy of the
    store is, in seconds (0: it has none, and asked the store).

    ``values``: float64 [n, features] in declared order, NaN where missing. ``events``: float64
    [n, views], epoch seconds of the row that was read, NaN where there is none or it is older than
    its ttl.
    """

    tick: datetime
    values: Array
    events: Array
    copy_age: float
    features: tuple[str, ...]
    views: tuple[str, ...]

    @property
    def columns(self) -> dict[str, Array]:
        """``values`` [n] by feature."""
        return dict(zip(self.features, self.values.T, strict=True))

    @property
    def view_ticks(self) -> dict[str, Array]:
        """``events`` [n] by view."""
        return dict(zip(self.views, self.events.T, strict=True))


class OnlineStore:
    """Reads the online rows of one use case.

    Raises:
        StateError: the store does not answer, is absent, or was written for other features.
    """

    def __init__(self, rows: RowReader, use_case: UseCase) -> None:
        self._rows = rows
        self._use_case = use_case
        self._layout = _Layout(use_case)
        self._state: tuple[bytes, StoreState] | None = None
        self._checked(self._rows.get([STATE])[0])

    @property
    def name(self) -> str:
        """Where the rows are."""
        return self._rows.name

    @property
    def tick(self) -> datetime:
        """Tick as of which the store was written; aware, UTC."""
        return self._checked(self._rows.get([STATE])[0]).tick

    def read(self, fields: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        """Stored features of requests given by their fields; all rows are of one moment."""
        state, *found = self._rows.get([STATE, *self._layout.keys(fields)])
        tick = self._checked(state).tick
        try:
            events, features = self._layout.unpack(found, len(fields))
        except StateError as exc:
            raise self._broken(f"{exc}") from exc
        at = tick.timestamp()
        # A row from after the store's tick is no fact yet.
        dead = (events < at - self._layout.ttls) | (events > at)
        features[dead.take(self._layout.view_of, axis=1)] = np.nan
        events[dead | (events == 0.0)] = np.nan
        age = self._rows.age
        return OnlineFeatures(
            tick=tick, values=features, events=events, copy_age=age,
            features=self._layout.features, views=self._layout.views,
        )  # fmt: skip

    def nothing(self, tick: datetime, count: int) -> OnlineFeatures:
        """What n requests read where the store does not answer: every feature is missing."""
        features, views = self._layout.features, self._layout.views
        return OnlineFeatures(
            tick=tick, values=np.full((count, len(features)), np.nan),
            events=np.full((count, len(views)), np.nan), copy_age=0.0,
            features=features, views=views,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the store."""
        self._rows.close()

    def _checked(self, value: bytes | None) -> StoreState:
        """The store's state, which must be of this declaration."""
        if self._state is not None and self._state[0] == value:
            return self._state[1]
        if value is None:
            raise StateError(
                f"the online store {self._rows.name} is absent or empty; run the use case's "
                "workflow, which materialises it"
            )
        try:
            state = unpack_state(value)
        except StateError as exc:
            raise self._broken(f"{exc}") from exc
        for what, held, ours in (
            ("use case", state.use_case, self._use_case.name),
            ("feature declaration", state.declaration[:12], self._use_case.declaration[:12]),
        ):
            if held != ours:
                raise self._broken(
                    f"it was written for {what} {held!r}, this program reads {ours!r}"
                )
        self._state = value, state
        return state

    def _broken(self, reason: str) -> StateError:
        return StateError(
            f"the online store {self._rows.name} cannot be used: {reason}; run the use case's "
            "workflow again, which materialises it anew"
        )


class _Layout:
    """One request's rows, one view's after the other's, read as one array of numbers. The views of
    an entity lie together, so that their keys are made together."""

    def __init__(self, use_case: UseCase) -> None:
        views = use_case.views
        self.views = tuple(view.name for view in views)
        self.features = tuple(spec.name for spec in use_case.features)
        self.ttls = np.array([view.ttl.total_seconds() for view in views])
        by_entity: dict[tuple[str, ...], list[FeatureView]] = {}
        for view in views:
            by_entity.setdefault(view.entity.keys, []).append(view)
        ordered = [view for of_entity in by_entity.values() for view in of_entity]
        self._forms = [row_format(view) for view in ordered]
        self._nothing = [form.nothing for form in self._forms]
        self._sizes = [len(nothing) for nothing in self._nothing]
        self._groups = [
            (itemgetter(*names), _keys_of(names, [row_format(view) for view in of_entity]))
            for names, of_entity in by_entity.items()
        ]
        place, where, starts = 0, {}, {}
        for view in ordered:
            starts[view.name] = place
            for i, spec in enumerate(view.features):
                where[spec.name] = place + _HEAD + i
            place += _HEAD + len(view.features)
        self._width = place
        self._events = np.array([starts[name] for name in self.views], dtype=np.int64)
        self._places = np.array([where[name] for name in self.features], dtype=np.int64)
        views_of = [self.views.index(spec.view) for spec in use_case.features]
        self.view_of = np.array(views_of, dtype=np.int64)

    def keys(self, fields: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Keys [n * views], request by request; empty (never stored) where a part of the entity
        is null."""
        keys: list[bytes] = []
        for asked in fields:
            for values_of, keys_of in self._groups:
                keys += keys_of(values_of(asked))
        return keys

    def unpack(self, rows: Sequence[bytes | None], count: int) -> tuple[Array, Array]:
        """Event times float64 [n, views] in epoch seconds (0 where there is no row), and features
        float64 [n, features].

        Raises:
            StateError: a row is not of its view's form.
        """
        nothing = self._nothing * count
        held = [row or absent for row, absent in zip(rows, nothing, strict=True)]
        if list(map(len, held)) != self._sizes * count:
            wrong = next(i for i, row in enumerate(held) if len(row) != len(nothing[i]))
            form = self._forms[wrong % len(self._forms)]
            raise StateError(
                f"a row of the feature view {form.view!r} is not of {len(form.nothing)} bytes, "
                f"as its {len(form.features)} features need"
            )
        content = b"".join(held)
        numbers = np.frombuffer(content, "<f8").reshape(count, self._width)
        instants = np.frombuffer(content, ">u8").reshape(count, self._width)
        events = instants.take(self._events, axis=1) / 1e6
        return events, numbers.take(self._places, axis=1)


def _keys_of(
    names: tuple[str, ...], forms: Sequence[RowFormat]
) -> Callable[[Any], tuple[bytes, ...]]:
    """Keys of an entity's rows in several views from its values: one, or a tuple of them."""

    @lru_cache(maxsize=65_536)
    def keys(values: Any) -> tuple[bytes, ...]:
        parts = (values,) if len(names) == 1 else values
        if None in parts:
            return (b"",) * len(forms)
        entity = entity_key(dict(zip(names, parts, strict=True)))
        return tuple(form.key(entity) for form in forms)

    return keys
