"""Feast's door to the packed online rows: its SDK and command line read and write the same rows.

Feast finds the class by the path that its configuration names (``repo.settings``); nothing of
ours imports this module. Its own stores keep a value a feature: they are read slower, and the
sqlite one lets an older event overwrite a newer one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from feature_repo.online_rows import OnlineRows, open_rows
from feature_repo.packed import STATE, RowFormat, microseconds, unpack_state
from feature_repo.ticks import EPOCH, aware

Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
Found = tuple[datetime | None, dict[str, Value] | None]


class PackedOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast ships no types
    """Where the rows are (a Redis URL or a folder), and the feature service that they are of."""

    type: Literal["feature_repo.feast_online.PackedOnlineStore"] = (
        "feature_repo.feast_online.PackedOnlineStore"
    )
    address: str
    service: str


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]  # feast ships no types
    """Feast's online store over packed rows. Its features are float64."""

    _rows: OnlineRows | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write the rows that are not older than the store's.

        Raises:
            StateError: a row is of a tick after the store's, or the store does not answer.
        """
        if not data:
            return
        form = _form(table)
        values = np.array([[_double(row[1].get(n)) for n in form.features] for row in data])
        event = [microseconds(aware(row[2])) for row in data]
        created = [microseconds(aware(row[3] or row[2])) for row in data]
        keys = [form.key(serialize_entity_key(row[0], 3)) for row in data]
        self._store(config).put(zip(keys, form.pack(event, created, values), strict=True))
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Found]:
        """Rows as of the store's tick; one older than the view's ttl at the tick is none."""
        form = _form(table)
        keys = [form.key(serialize_entity_key(key, 3)) for key in entity_keys]
        state, *rows = self._store(config).get([STATE, *keys])
        event, values = form.unpack(rows)
        oldest = 0
        if state is not None and table.ttl is not None:
            oldest = microseconds(unpack_state(state).tick - table.ttl)
        wanted = [(n, form.features.index(n)) for n in requested_features or form.features]
        return [
            _found(int(event[i]), {n: values[i, k] for n, k in wanted})
            if rows[i] is not None and event[i] >= oldest
            else (None, None)
            for i in range(len(rows))
        ]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Nothing to do: a store needs no tables, and another declaration's is another store."""

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Remove the service's rows."""
        self._store(config).drop()

    def _store(self, config: RepoConfig) -> OnlineRows:
        if self._rows is None:
            self._rows = open_rows(config.online_store.address, config.online_store.service)
        return self._rows


def _form(table: FeatureView) -> RowFormat:
    return RowFormat(table.name, [field.name for field in table.features])


def _double(value: Value | None) -> float:
    if value is None or not value.HasField("double_val"):
        return float("nan")
    return float(value.double_val)


def _found(event: int, values: dict[str, float]) -> Found:
    """As Feast's own stores answer: a missing value is an empty message."""
    return EPOCH + timedelta(microseconds=event), {
        name: Value() if np.isnan(value) else Value(double_val=value)
        for name, value in values.items()
    }
