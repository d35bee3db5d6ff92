"""What a caller may ask: bodies to checked instances, or an error that names the field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from feature_repo.errors import RequestError

if TYPE_CHECKING:
    from feature_repo.contract import Column, RequestField, UseCase

MAX_BODY = 1024 * 1024
MAX_BATCH = 1024
MAX_STRING = 256
_YEARS = (1900, 2200)
TIME = "prediction_time"
_LARGEST = 1e300  # an integer may be too large to become a float at all


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One checked question: str, float or aware datetime by field (None: an unknown key), and
    when it is asked."""

    fields: dict[str, Any]
    prediction_time: datetime


def parse_v1(body: bytes, use_case: UseCase, now: datetime) -> list[Instance]:
    """Instances of ``{"instances": [{field: value, …, "prediction_time": ISO}]}``.

    Raises:
        RequestError: 400 the body's form, 413 too many instances, 422 a field.
    """
    document, fault = _json_object(body)
    _only(document, {"instances"}, "")
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "instances", 'send {"instances": [{field: value, …}, …]}')
    _check_size(len(instances))
    checked = [instance_of(i, value, use_case, now) for i, value in enumerate(instances)]
    if fault is not None:
        raise fault
    return checked


def parse_v2(body: bytes, use_case: UseCase, now: datetime) -> tuple[str, list[Instance]]:
    """Id and instances of a V2 (Open Inference Protocol) JSON body: one tensor [n] a field.

    Strings and instants are BYTES, numbers any number type. No binary tensors.

    Raises:
        RequestError: 400 the body's form, 413 too many instances, 422 a tensor or a field.
    """
    document, fault = _json_object(body)
    _only(document, {"id", "parameters", "inputs", "outputs"}, "")
    tensors = document.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        raise RequestError(
            400, "inputs", 'send {"inputs": [{"name", "shape", "datatype", "data"}]}'
        )
    columns: dict[str, list[Any]] = {}
    for position, tensor in enumerate(tensors):
        name, data = _tensor(f"inputs[{position}]", tensor)
        if name in columns:
            raise RequestError(422, name, "this tensor is given twice")
        columns[name] = data
    lengths = {len(data) for data in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise RequestError(422, "inputs", "all tensors need one shape [n] with n >= 1")
    (rows,) = lengths
    _check_size(rows)
    questions = [{name: data[i] for name, data in columns.items()} for i in range(rows)]
    instances = [instance_of(i, q, use_case, now) for i, q in enumerate(questions)]
    if fault is not None:
        raise fault
    return str(document.get("id") or ""), instances


def columns_of(use_case: UseCase, instances: Sequence[Instance]) -> dict[str, Column]:
    """Request fields as columns [n]: object strings, float64, ``datetime64[s]`` in UTC."""
    columns: dict[str, Column] = {}
    for field in use_case.fields:
        values = [instance.fields[field.name] for instance in instances]
        if field.dtype == "timestamp":
            columns[field.name] = np.array([naive(v) for v in values], dtype="datetime64[s]")
        else:
            kind = object if field.dtype == "string" else np.float64
            columns[field.name] = np.array(values, dtype=kind)
    times = [naive(instance.prediction_time) for instance in instances]
    columns[TIME] = np.array(times, dtype="datetime64[s]")
    return columns


def naive(instant: datetime) -> datetime:
    """UTC wall clock without zone, as numpy's instants are."""
    return instant.astimezone(timezone.utc).replace(tzinfo=None)


def _json_object(body: bytes) -> tuple[dict[str, Any], RequestError | None]:
    """The body, and why it must be refused although it can be read: a NaN, say, is no JSON, but
    the caller learns more from the name of the field that it is in."""
    fault = None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        fault = RequestError(400, "", f"the body is no JSON: {exc}")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise fault from exc
    if not isinstance(document, dict):
        raise RequestError(400, "", "the body must be a JSON object")
    return document, fault


def _only(document: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in document:
        if name not in known:
            expected = ", ".join(sorted(known))
            raise RequestError(422, f"{where}{name}", f"unknown field; known are: {expected}")


def _check_size(count: int) -> None:
    if count > MAX_BATCH:
        raise RequestError(
            413, "instances", f"{count} instances; at most {MAX_BATCH} in a request: split it"
        )


def _tensor(where: str, tensor: Any) -> tuple[str, list[Any]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError(422, where, "a tensor is an object with a name, a shape and data")
    name, data, shape = tensor["name"], tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise RequestError(422, name, "the tensor needs its data as a JSON list (no binary data)")
    if shape not in ([len(data)], [len(data), 1]):
        raise RequestError(422, name, f"shape {shape!r} does not fit {len(data)} values")
    return name, data


def instance_of(position: int, value: Any, use_case: UseCase, now: datetime) -> Instance:
    """One checked question from a mapping of fields; ``now`` is its time when it states none.

    Raises:
        RequestError: 422 a field is missing, unknown, of another type or out of bounds.
    """
    where = f"instances[{position}]"
    if not isinstance(value, dict):
        raise RequestError(422, where, "an instance is an object of fields")
    _only(value, {TIME, *(f.name for f in use_case.fields)}, f"{where}.")
    fields = {}
    for field in use_case.fields:
        if field.name not in value:
            raise RequestError(422, f"{where}.{field.name}", "this field is missing")
        fields[field.name] = _value(f"{where}.{field.name}", field, value[field.name])
    stated = value.get(TIME)
    asked = now if TIME not in value else _instant(f"{where}.{TIME}", stated)
    return Instance(fields=fields, prediction_time=asked)


def _value(where: str, field: RequestField, value: Any) -> Any:
    if field.dtype == "string":
        # What only identifies may be unknown (an aircraft not yet assigned): its views are missing.
        return None if value is None and not field.model_input else _string(where, value)
    if field.dtype == "timestamp":
        return _instant(where, value)
    return _number(where, field, value)


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(422, where, f"must be a string, not {_kind(value)}")
    if len(value) > MAX_STRING or "\0" in value:
        raise RequestError(
            422, where, f"at most {MAX_STRING} characters, none of them the null character"
        )
    return value


def _number(where: str, field: RequestField, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(422, where, f"must be a number, not {_kind(value)}")
    low, high = field.bounds
    if not math.isfinite(value if abs(value) < _LARGEST else math.inf):
        raise RequestError(422, where, "must be a finite number")
    if not low <= value <= high:
        raise RequestError(422, where, f"{value} is not between {low} and {high}")
    return float(value)


def _instant(where: str, value: Any) -> datetime:
    if not isinstance(value, str):
        raise RequestError(422, where, f"must be an ISO 8601 instant, not {_kind(value)}")
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as exc:
        raise RequestError(
            422, where, "must be an ISO 8601 instant such as 2013-11-05T14:30:00Z"
        ) from exc
    if instant.tzinfo is None:
        raise RequestError(
            422, where, "local time without an offset is ambiguous; add Z or an offset like -05:00"
        )
    if not _YEARS[0] <= instant.year < _YEARS[1]:
        raise RequestError(422, where, f"the year must be in {_YEARS[0]} to {_YEARS[1] - 1}")
    return instant.astimezone(timezone.utc)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    names |= {str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]
