"""One question at a time: a mapping of fields to a checked instance, and instances to columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import RequestError

if TYPE_CHECKING:
    from feature_repo.contract import Column, RequestField, UseCase

MAX_STRING = 256
TIME = "prediction_time"
_YEARS = (1900, 2200)
_LARGEST = 1e300  # an integer may be too large to become a float at all


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One checked question: str, float or aware datetime by field (None: an unknown key), and
    when it is asked."""

    fields: dict[str, Any]
    prediction_time: datetime


class InstanceForm:
    """Checks the questions to one use case."""

    def __init__(self, use_case: UseCase) -> None:
        self.names = frozenset(field.name for field in use_case.fields)
        self.task = use_case.task
        self._checks = [(field.name, _check(field)) for field in use_case.fields]
        self._known = {TIME, *self.names}
        self._rules = use_case.rules

    def instance(self, position: int, value: Any, now: datetime) -> Instance:
        """One checked question from a mapping of fields; ``now`` is its time when it states none.

        Raises:
            RequestError: 422 a field is missing, unknown, of another type or out of bounds, or
                the request breaks a rule of the use case.
        """
        name = ""
        try:
            if not isinstance(value, dict):
                raise _Bad("an instance is an object of fields")
            if not value.keys() <= self._known:
                name = next(n for n in value if n not in self._known)
                raise _Bad(f"unknown field; known are: {', '.join(sorted(self._known))}")
            fields = {}
            for name, check in self._checks:
                if name not in value:
                    raise _Bad("this field is missing")
                fields[name] = check(value[name])
            name = TIME
            asked = now if TIME not in value else _instant(value[TIME])
            for rule in self._rules:
                if not rule.holds(fields, asked):
                    name = rule.field
                    raise _Bad(rule.says)
        except _Bad as exc:
            where = f"instances[{position}]"
            raise RequestError(422, f"{where}.{name}" if name else where, str(exc)) from exc
        return Instance(fields=fields, prediction_time=asked)


class _Bad(Exception):  # noqa: N818 - it never leaves this module
    """What is wrong with a value."""


def columns_of(use_case: UseCase, instances: Sequence[Instance]) -> dict[str, Column]:
    """Request fields as columns [n]: object strings, float64, ``datetime64[s]`` in UTC."""
    columns: dict[str, Column] = {}
    for field in use_case.fields:
        values = [instance.fields[field.name] for instance in instances]
        if field.dtype == "timestamp":
            columns[field.name] = instants(values)
        else:
            kind = object if field.dtype == "string" else np.float64
            columns[field.name] = np.array(values, dtype=kind)
    columns[TIME] = instants([instance.prediction_time for instance in instances])
    return columns


def instants(values: Sequence[datetime]) -> Column:
    """Aware instants [n] as ``datetime64[s]`` in UTC, rounded down."""
    seconds = [math.floor(value.timestamp()) for value in values]
    return np.array(seconds, dtype=np.int64).astype("datetime64[s]")


def _check(field: RequestField) -> Callable[[Any], Any]:
    """What a field's value must be, as a function that gives it back or raises ``_Bad``."""
    if field.dtype == "timestamp":
        return _instant
    if field.dtype == "number":
        low, high = field.bounds
        return lambda value: _number(value, low, high)
    # What only identifies may be unknown (an aircraft not yet assigned): its views are missing.
    return _string if field.model_input else lambda v: None if v is None else _string(v)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Bad(f"must be a string, not {kind_of(value)}")
    if len(value) > MAX_STRING or "\0" in value:
        raise _Bad(f"at most {MAX_STRING} characters, none of them the null character")
    return value


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Bad(f"must be a number, not {kind_of(value)}")
    if not math.isfinite(value if abs(value) < _LARGEST else math.inf):
        raise _Bad("must be a finite number")
    if not low <= value <= high:
        raise _Bad(f"{value} is not between {low} and {high}")
    return float(value)


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise _Bad(f"must be an ISO 8601 instant, not {kind_of(value)}")
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as exc:
        raise _Bad("must be an ISO 8601 instant such as 2013-11-05T14:30:00Z") from exc
    if instant.tzinfo is None:
        raise _Bad("local time without an offset is ambiguous; add Z or an offset like -05:00")
    if not _YEARS[0] <= instant.year < _YEARS[1]:
        raise _Bad(f"the year must be in {_YEARS[0]} to {_YEARS[1] - 1}")
    return instant if instant.tzinfo is timezone.utc else instant.astimezone(timezone.utc)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    names |= {str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]
