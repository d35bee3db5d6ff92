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
    from feature_repo.contract import Column, FeatureView, UseCase
    from feature_repo.online_rows import OnlineRows as Store
    from feature_repo.packed import RowFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineRows:
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

    def __init__(self, rows: Store, use_case: UseCase) -> None:
        self._rows = rows
        self._use_case = use_case
        self._forms = [(view, row_format(view)) for view in use_case.views]
        self._state: tuple[bytes, StoreState] | None = None
        self._checked(self._rows.get([STATE])[0])

    @property
    def tick(self) -> datetime:
        """Tick as of which the store was written; aware, UTC."""
        return self._checked(self._rows.get([STATE])[0]).tick

    def read(self, fields: Sequence[Mapping[str, Any]]) -> OnlineRows:
        """Stored features of requests given by their fields; all rows are of one moment."""
        keys = [[self._key(view, form, f) for f in fields] for view, form in self._forms]
        distinct = list(dict.fromkeys(key for of_view in keys for key in of_view if key))
        state, *values = self._rows.get([STATE, *distinct])
        tick, found = self._checked(state).tick, dict(zip(distinct, values, strict=True))
        columns: dict[str, Column] = {}
        view_ticks: dict[str, Column] = {}
        for (view, form), of_view in zip(self._forms, keys, strict=True):
            try:
                event, features = form.unpack([found.get(key) for key in of_view])
            except StateError as exc:
                raise self._broken(f"{exc}") from exc
            # A row from after the store's tick is no fact yet.
            living = (event >= tick.timestamp() - view.log.ttl.total_seconds()) & (event > 0)
            living &= event <= tick.timestamp()
            view_ticks[view.name] = np.where(living, event, math.nan)
            features = np.where(living[:, None], features, math.nan)
            columns |= zip(form.features, features.T, strict=True)
        return OnlineRows(tick=tick, columns=columns, view_ticks=view_ticks)

    def _key(self, view: FeatureView, form: RowFormat, fields: Mapping[str, Any]) -> bytes:
        """The entity's key; empty (never stored) when a part of it is null."""
        keys = {name: fields[name] for name in view.entity.keys}
        return b"" if None in keys.values() else form.key(entity_key(keys))

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

    def close(self) -> None:
        """Let go of the store."""
        self._rows.close()

    def _broken(self, reason: str) -> StateError:
        return StateError(
            f"the online store {self._rows.name} cannot be used: {reason}; run the use case's "
            "workflow again, which materialises it anew"
        )
