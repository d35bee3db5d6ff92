"""Feast's objects, derived from the contract: nothing about a feature is written twice.

Feast is imported inside functions: it costs seconds, and the server does without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from feature_repo.contract import FeatureView, UseCase
from feature_repo.home import Home, online_store, open_home, write_atomically
from feature_repo.tables import Table, named, parquet_glob

if TYPE_CHECKING:
    from feast import Entity as FeastEntity
    from feast import FeatureService, FeatureStore, RepoConfig
    from feast import FeatureView as FeastView


def settings(home: Home, use_case: UseCase) -> dict[str, Any]:
    """Feast's configuration as plain data.

    A feature service is a Feast project of its own: services of older declarations are served
    along, and have views and entities of the same names. One registry holds them all.
    """
    registry = home.path("feast", use_case.name, "registry.db")
    return {
        "project": use_case.service,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{registry}"},
        "offline_store": {"type": "duckdb"},
        "online_store": {
            "type": "feature_repo.feast_online.PackedOnlineStore",
            "address": online_store(home),
            "service": use_case.service,
        },
        "entity_key_serialization_version": 3,
    }


def feature_store_yaml(home: Home, use_case: UseCase) -> str:
    """``feature_store.yaml`` for the Feast command line; our own code never reads it."""
    known = settings(home, use_case)
    if "://" in known["online_store"]["address"]:  # it may hold a password: Feast fills it in
        known["online_store"]["address"] = "${AIRWORTHY_ONLINE_STORE}"
    # JSON is YAML, and needs no further library.
    return json.dumps(known, indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write a use case's ``feature_store.yaml`` beside its registry, and say how to read it."""
    from feature_repo.registry import get_use_case

    if len(arguments) != 1:
        print("usage: python -m feature_repo.repo USE_CASE")
        return 2
    home, use_case = open_home(), get_use_case(arguments[0])
    path = home.path("feast", use_case.name, "feature_store.yaml")
    write_atomically(path, feature_store_yaml(home, use_case).encode())
    print(f"{path} written; now for example: feast --chdir {path.parent} feature-views list")
    return 0


def open_store(home: Home, use_case: UseCase) -> FeatureStore:
    """Feast's store of a use case's feature service."""
    from feast import FeatureStore, RepoConfig

    config: RepoConfig = RepoConfig(**settings(home, use_case), repo_path=home.root)
    return FeatureStore(config=config)


def apply(store: FeatureStore, use_case: UseCase, tables: list[Table]) -> FeatureService:
    """Register entities, views and the service; ``tables`` are the stored views."""
    from feast import FeatureService

    entities = _entities(use_case)
    views = [
        _view(view, entities, parquet_glob(named(tables, view.name))) for view in use_case.views
    ]
    service = FeatureService(
        name=use_case.service, features=views, owner=use_case.owner,
        description=use_case.description, tags={"declaration": use_case.declaration},
    )  # fmt: skip
    store.apply([*entities.values(), *views, service])
    return service


def forget(home: Home, use_case: UseCase) -> None:
    """Take a use case's feature service, and all that is registered for it, out of the registry."""
    from feast.errors import ProjectObjectNotFoundException

    with home.lock(f"feast-{use_case.name}"):
        try:
            open_store(home, use_case).registry.delete_project(use_case.service)
        except ProjectObjectNotFoundException:
            return


def _entities(use_case: UseCase) -> dict[str, FeastEntity]:
    """One Feast entity for each key: Feast joins a composite one by several."""
    from feast import Entity, ValueType

    keys = sorted({key for view in use_case.views for key in view.entity.keys})
    return {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys
    }  # fmt: skip


def _view(view: FeatureView, entities: Mapping[str, FeastEntity], path: str) -> FeastView:
    from feast import FeatureView as FeastView
    from feast import Field, FileSource, PushSource
    from feast.types import Float64, String

    source = FileSource(
        name=f"{view.name}_table", path=path, timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )  # fmt: skip
    return FeastView(
        name=view.name,
        entities=[entities[key] for key in view.entity.keys],
        ttl=view.ttl,
        schema=[
            *(Field(name=key, dtype=String) for key in view.entity.keys),
            *(
                Field(name=spec.name, dtype=Float64, description=spec.description)
                for spec in view.features
            ),
        ],
        source=PushSource(name=f"{view.name}_push", batch_source=source),
        online=True,
        tags={"entity": view.entity.name, "log": view.log.name},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
