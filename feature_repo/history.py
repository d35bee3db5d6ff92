"""Which version of the offline store it was: at an instant, or by the tables that were made of it.

A model's lineage and an online store name content, not numbers: the digests tell the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from feature_repo.contract import UseCase
from feature_repo.errors import StateError
from feature_repo.home import Home, digest_of
from feature_repo.offline import Version, newest_first, versions
from feature_repo.tables import Table


def of_content(home: Home, use_case: UseCase, content: str) -> Version | None:
    """The newest kept version that an online store with this ``StoreState.content`` was filled
    from: by its views, or by their states, one row an entity."""
    names = [view.name for view in use_case.views]
    for version in newest_first(home, use_case):
        for tables in (version.built.views, version.built.states):
            digests = [table.digest for table in tables]
            if digest_of(dict(zip(names, digests, strict=True))) == content:
                return version
    return None


def as_of(home: Home, use_case: UseCase, created: datetime) -> Version:
    """The version that was the newest at ``created`` (aware).

    Raises:
        StateError: there was none, or it is no longer kept.
    """
    kept = versions(home, use_case)
    place = sum(version.created <= created for version in kept)
    near = kept[max(place - 1, 0) : place + 1]
    found, later = near[0] if place else None, near[1:]
    # A number that is missing is that of a forgotten version, which may have been the newest then.
    forgotten = found and later and later[0].number != found.number + 1
    if found is None or (forgotten and found.created != created):
        told = " and ".join(f"{v.number} of {v.created.isoformat()}" for v in near) or "none"
        raise StateError(
            f"{use_case.service}: no version of {created.isoformat()} is kept (nearest: {told}); "
            "ask for the instant of a kept one, or run the use case's workflow"
        )
    return found


def made_of(
    home: Home, use_case: UseCase, tables: Mapping[str, str], views: Mapping[str, str]
) -> Version | None:
    """The first kept version with just these raw tables and views (digests by name)."""
    for version in versions(home, use_case):
        built = version.built
        if (_digests(built.tables), _digests(built.views)) == (tables, views):
            return version
    return None


def computed_until(
    home: Home, use_case: UseCase, tables: list[Table], views: list[Table]
) -> datetime | None:
    """The last tick (aware, UTC) of views that were computed from these raw tables: that of the
    first kept version that has both; None where none has."""
    found = made_of(home, use_case, _digests(tables), _digests(views))
    return found.until if found else None


def _digests(tables: list[Table]) -> dict[str, str]:
    return {table.name: table.digest for table in tables}
