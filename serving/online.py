"""Features at request time: all views of all requests in one round trip, as of one tick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import StateError
from feature_repo.packed import STATE, StoreState, entity_key, row_format, unpack_state

if TYPE_CHECKING:
    from feature_repo.contract import Column, UseCase
    from feature_repo.online_rows import OnlineRows


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineFeatures:
    """Stored features of n requests as of ``tick`` (aware).

    ``columns``: float64 [n] by feature, NaN where missing. ``view_ticks``: float64 [n] by view,
    epoch seconds of the row that was read, NaN where there is none or it is older than the ttl.
    """

    tick: datetime
    columns: dict[str, Column]
    view_ticks: dict[str, Column]


class OnlineStore:
    """Reads the online rows of one use case.

    Raises:
        StateError: the store does not answer, is absent, or was written for other features.
    """

    def __init__(self, rows: OnlineRows, use_case: UseCase) -> None:
        self._rows = rows
        self._use_case = use_case
        self._views = use_case.views
        self._forms = [row_format(view) for view in self._views]
        self._ttls = np.array([[view.ttl.total_seconds()] for view in self._views])
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
        keys = self._keys(fields)
        distinct = list(dict.fromkeys(key for of_view in keys for key in of_view if key))
        state, *values = self._rows.get([STATE, *distinct])
        tick, found = self._checked(state).tick, dict(zip(distinct, values, strict=True))
        try:
            rows = [
                form.unpack([found.get(key) for key in of_view])
                for form, of_view in zip(self._forms, keys, strict=True)
            ]
        except StateError as exc:
            raise self._broken(f"{exc}") from exc
        events = np.array([event for event, _ in rows]) / 1e6  # [views, n]
        at = tick.timestamp()
        # A row from after the store's tick is no fact yet.
        dead = np.logical_or(events < at - self._ttls, events > at)
        columns: dict[str, Column] = {}
        for form, (_, features), gone in zip(self._forms, rows, dead, strict=True):
            alive = np.where(gone[:, None], math.nan, features)
            columns |= zip(form.features, alive.T, strict=True)
        ticks = np.where(np.logical_or(dead, events == 0), math.nan, events)
        view_ticks = {view.name: ticks[i] for i, view in enumerate(self._views)}
        return OnlineFeatures(tick=tick, columns=columns, view_ticks=view_ticks)

    def close(self) -> None:
        """Let go of the store."""
        self._rows.close()

    def _keys(self, fields: Sequence[Mapping[str, Any]]) -> list[list[bytes]]:
        """Keys by view and request; empty (never stored) where a part of the entity is null."""
        entities: dict[tuple[str, ...], list[bytes]] = {}
        for names in {view.entity.keys: None for view in self._views}:
            asked = [tuple([f[name] for name in names]) for f in fields]
            made = {
                values: b"" if None in values else entity_key(dict(zip(names, values, strict=True)))
                for values in set(asked)
            }
            entities[names] = [made[values] for values in asked]
        return [
            [entity and form.key(entity) for entity in entities[view.entity.keys]]
            for view, form in zip(self._views, self._forms, strict=True)
        ]

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
