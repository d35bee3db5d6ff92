"""Declarations that cannot work are refused when they are made, with the way out.

``check`` runs in ``UseCase.__post_init__`` and reads SQL as a set of words, which costs nothing: a
column that a log's SQL never names cannot be one that it yields. ``sql_checks`` parses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, get_args

from feature_repo.errors import DeclarationError
from feature_repo.fallback import check_fallback

if TYPE_CHECKING:
    from feature_repo.contract import EventLog, FeatureSpec, UseCase

TIMES = ("event_timestamp", "available_at")
REQUEST = ("request_id", "prediction_time", "event_time", "label", "label_available_at")
# Columns that the platform adds to views, training sets and predictions.
RESERVED = frozenset((*TIMES, *REQUEST, "created_timestamp", "tick", "tick_index", "split"))
NAME = re.compile(r"[a-z][a-z0-9_]*")  # those that begin with _ are the platform's own in SQL
DIGITS = 18  # of an exact sum's values, before and after the point


def check(use_case: UseCase) -> None:
    """Refuse a use case that cannot work.

    Raises:
        DeclarationError: names use case, feature, rule and way out.
    """
    where = f"use case {use_case.name!r}"
    for spec in use_case.features:
        _check_kinds(f"{where}, feature {spec.name!r}", spec)
    _check_ticks(where, use_case)
    _check_names(where, use_case)
    _check_parts(where, use_case)
    _check_auxiliary(where, use_case)
    check_fallback(where, use_case)
    stated = {f.name for f in use_case.fields}
    for name in sorted(set(use_case.slices) - stated - {"month"}):
        raise DeclarationError(f"{where}: slice {name!r} is no request field; declare it first")
    for name in sorted(set(use_case.identity) - stated):
        raise DeclarationError(f"{where}: identity {name!r} is no request field; name those")
    for field in use_case.fields:
        _check_bounds(f"{where}, request field {field.name!r}", field.bounds)
    for spec in use_case.features:
        at = f"{where}, feature {spec.name!r}"
        _check_keys(at, spec, stated)
        _check_columns(at, spec)
        _check_window(at, spec, use_case.tick)
        _check_bounds(at, spec.bounds)
        if not 0 <= spec.decimals <= DIGITS:
            raise DeclarationError(
                f"{at}: decimals {spec.decimals} is not 0 to {DIGITS}; its sums have {DIGITS} "
                "digits, those before the point included"
            )


def _check_kinds(at: str, spec: FeatureSpec) -> None:
    """What a type checker would say, for those who run none."""
    from feature_repo.contract import Aggregation, Entity, EventLog

    for part, value, kind in (("entity", spec.entity, Entity), ("log", spec.log, EventLog)):
        if not isinstance(value, kind):
            raise DeclarationError(
                f"{at}: {part} {value!r} is unknown; declare an {kind.__name__} and name it"
            )
    if spec.aggregation not in get_args(Aggregation):
        known = ", ".join(get_args(Aggregation))
        raise DeclarationError(f"{at}: aggregation {spec.aggregation!r} is none of {known}")
    if not isinstance(spec.window, timedelta | None):
        raise DeclarationError(f"{at}: window {spec.window!r} is no timedelta; write one, or None")


def _check_ticks(where: str, use_case: UseCase) -> None:
    second = timedelta(seconds=1)
    if use_case.tick < second or use_case.tick % second:
        raise DeclarationError(
            f"{where}: tick {use_case.tick} is not a whole number of seconds above zero"
        )
    if use_case.lag < timedelta(0):
        raise DeclarationError(
            f"{where}: lag {use_case.lag} is negative: a request would read what is known only "
            "after it; set it to zero or more"
        )
    if use_case.lag % second:
        raise DeclarationError(
            f"{where}: lag {use_case.lag} is not a whole number of seconds, which is what SQL "
            "counts: training and serving would read different ticks; round it"
        )


def _check_auxiliary(where: str, use_case: UseCase) -> None:
    if use_case.auxiliary is None:
        return
    at, above = f"{where}, auxiliary targets", use_case.auxiliary.above
    if use_case.task != "binary":
        raise DeclarationError(
            f"{at}: they stand beside a yes-or-no label, and this task is {use_case.task}: leave "
            "them out"
        )
    if not above or list(above) != sorted(set(above)) or not all(map(math.isfinite, above)):
        raise DeclarationError(f"{at}: above {above} must be finite numbers that rise; mend them")


def _check_names(where: str, use_case: UseCase) -> None:
    """One name for one thing, and none that the platform or the data already use."""
    names = [
        *use_case.measures,
        *(field.name for field in use_case.fields),
        *(derived.name for derived in use_case.derived),
        *(spec.name for spec in use_case.features),
    ]
    for name in names:
        _check_name(where, "name", name)
        if names.count(name) > 1:
            what = "the auxiliary measure's" if name in use_case.measures else "declared twice"
            raise DeclarationError(f"{where}: the name {name!r} is {what}; rename one")
        if name in RESERVED:
            raise DeclarationError(
                f"{where}: the name {name!r} is reserved for a column of the platform; rename it"
            )
    sums = {name: view.name for view in use_case.views for name in view.carried}
    for name in sums.keys() & set(names):
        raise DeclarationError(
            f"{where}: the name {name!r} is that of a sum which the feature view {sums[name]!r} "
            "carries on; rename the feature"
        )
    queries = (use_case.requests_sql, *(spec.log.sql for spec in use_case.features))
    source = set().union(*map(_words, dict.fromkeys(queries)))
    for spec in use_case.features:
        if spec.name in source:
            raise DeclarationError(
                f"{where}, feature {spec.name!r}: the name collides with a source column or "
                f"another word of the use case's SQL; rename it, say {spec.entity.name}_{spec.name}"
            )


def _check_name(where: str, what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise DeclarationError(
            f"{where}: the {what} {name!r} cannot stand in SQL; use lower-case letters, digits "
            "and _, a letter first"
        )


def _check_parts(where: str, use_case: UseCase) -> None:
    """Entities, logs and views are told apart by their names."""
    tables = {table.name for table in use_case.tables}
    for name in sorted(tables):
        _check_name(where, "raw table", name)
    kinds = (
        ("entity", ((spec.entity.name, spec.entity) for spec in use_case.features)),
        ("event log", ((spec.log.name, spec.log) for spec in use_case.features)),
        ("feature view", ((s.view, (s.entity.name, s.log.name)) for s in use_case.features)),
    )
    for kind, parts in kinds:
        seen: dict[str, object] = {}
        for name, part in parts:
            _check_name(where, kind, name)
            if seen.setdefault(name, part) != part:
                raise DeclarationError(
                    f"{where}: two declarations of the {kind} {name!r} differ; rename one"
                )
            if kind == "feature view" and name in tables:
                raise DeclarationError(
                    f"{where}: the feature view {name!r} (entity_log) has the name of a raw "
                    "table; rename the entity or the event log"
                )


def _check_keys(at: str, spec: FeatureSpec, stated: set[str]) -> None:
    for key in sorted(set(spec.entity.keys) - stated):
        raise DeclarationError(
            f"{at}: entity {spec.entity.name!r} needs the key {key!r}, which no request field "
            "states; add it to fields"
        )
    if not spec.entity.keys:
        raise DeclarationError(
            f"{at}: entity {spec.entity.name!r} has no key; name the columns that tell one from "
            "another"
        )


def _check_columns(at: str, spec: FeatureSpec) -> None:
    """Columns that the log's SQL does not even name."""
    words = _words(spec.log.sql)
    missing = [(column, what) for column, what in needed(spec) if column.lower() not in words]
    for column, what in missing:
        raise DeclarationError(not_yielded(at, spec.log, column, what))


def _check_window(at: str, spec: FeatureSpec, tick: timedelta) -> None:
    if spec.weight and spec.aggregation in ("count", "last"):
        raise DeclarationError(
            f"{at}: {spec.aggregation!r} takes no weight; drop it, or use 'mean' or 'sum'"
        )
    if spec.window is None:
        return
    if spec.aggregation == "last":
        raise DeclarationError(f"{at}: 'last' takes no window; drop it, or set a ttl")
    if spec.window < tick:
        raise DeclarationError(
            f"{at}: window {spec.window} is shorter than the tick of {tick}: no event would be "
            "seen; choose a multiple of the tick"
        )
    if spec.window % tick:
        raise DeclarationError(
            f"{at}: window {spec.window} is not a whole number of ticks of {tick}; choose a "
            "multiple of the tick"
        )


def _check_bounds(at: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if not low <= high:
        raise DeclarationError(
            f"{at}: bounds ({low}, {high}) are reversed or not numbers; write (lowest, highest)"
        )


def needed(spec: FeatureSpec) -> Iterator[tuple[str, str]]:
    """Columns that the log must yield for a feature, and what for."""
    roles: Iterable[tuple[Iterable[str], str]] = (
        (TIMES, "instant"),
        (spec.entity.keys, f"key of entity {spec.entity.name!r}"),
        ((spec.value,), "value"),
        ((spec.weight,) if spec.weight else (), "weight"),
        (spec.log.tie_break, "tie-break"),
    )
    return chain.from_iterable(((column, what) for column in names) for names, what in roles)


def not_yielded(at: str, log: EventLog, column: str, what: str) -> str:
    why = {
        "event_timestamp": " (when the fact happened)",
        "available_at": " (when it could first be known: without it, the future leaks)",
    }.get(column, "")
    return (
        f"{at}: event log {log.name!r} does not yield the {what} {column!r}{why}; add it to the "
        "log's SELECT, or name a column that it yields"
    )


def _words(sql: str) -> set[str]:
    """Every word of a SQL text in lower case: names, keywords and what comments say."""
    return set(re.findall(r"[a-z_][a-z0-9_]*", sql.lower()))
