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
from serving.tensors import Tensor, read_tensors, wants_binary
from serving.vectors import MAX_STRING, NUMERIC, Vectors, vectors_of, vectors_of_tensors

if TYPE_CHECKING:
    from feature_repo.contract import Column, RequestField, UseCase
    from feature_repo.inputs import Inputs

MAX_BODY = 1024 * 1024
MAX_BATCH = 1024
# The path names the model; KServe's own client says it again.
_V2_FIELDS = {"id", "model_name", "model_version", "parameters", "inputs", "outputs"}
_YEARS = (1900, 2200)
TIME = "prediction_time"
_LARGEST = 1e300  # an integer may be too large to become a float at all


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One checked question: str, float or aware datetime by field (None: an unknown key), and
    when it is asked."""

    fields: dict[str, Any]
    prediction_time: datetime


Question = list[Instance] | Vectors


def parse_v1(body: bytes, use_case: UseCase, inputs: Inputs, now: datetime) -> Question:
    """Questions of ``{"instances": [{field: value, …, "prediction_time": ISO}]}``, or vectors of
    ``{"instances": [{"numeric": […], "categorical": […]}]}``.

    Raises:
        RequestError: 400 the body's form, 413 too many instances, 422 a field.
    """
    document, fault = _json_object(body)
    _only(document, {"instances"}, "")
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "instances", 'send {"instances": [{field: value, …}, …]}')
    _check_size(len(instances))
    first = instances[0]
    question: Question
    if isinstance(first, dict) and NUMERIC in first and not _declares(use_case, NUMERIC):
        plain = b"true" not in body and b"false" not in body
        question = vectors_of(instances, inputs, plain)
    else:
        question = [instance_of(i, value, use_case, now) for i, value in enumerate(instances)]
    if fault is not None:
        raise fault
    return question


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """A checked V2 request: its id, what is asked, and which outputs are wanted as binary data."""

    id: str
    question: Question
    binary: set[str] | bool


def parse_v2(
    body: bytes, header: int | None, use_case: UseCase, inputs: Inputs, now: datetime
) -> Inference:
    """A V2 (Open Inference Protocol) body: one tensor [n] a field; or the full vectors as tensors
    ``numeric`` [n, numeric] and ``categorical`` [n, categorical]. ``header``: how many bytes of it
    are JSON, where binary data follow. Strings and instants are BYTES, numbers any number type.

    Raises:
        RequestError: 400 the body's form, 413 too many instances, 422 a tensor or a field.
    """
    view = None if header is None else memoryview(body)
    if header is not None and not 0 <= header <= len(body):
        raise RequestError(
            400, "inference-header-content-length", f"{header} is not within {len(body)} bytes"
        )
    document, fault = _json_object(body if header is None else body[:header])
    _only(document, _V2_FIELDS, "")
    said = document.get("id")
    if said is not None and not isinstance(said, str):
        raise RequestError(422, "id", "must be a string")
    tensors = read_tensors(document.get("inputs"), None if view is None else view[header:])
    question = question_of(tensors, use_case, inputs, now)
    if fault is not None:
        raise fault
    return Inference(id=said or "", question=question, binary=wants_binary(document))


def question_of(
    tensors: list[Tensor], use_case: UseCase, inputs: Inputs, now: datetime
) -> Question:
    """What tensors of one batch size ask.

    Raises:
        RequestError: 413 too many instances, 422 a tensor or a field.
    """
    rows = tensors[0].rows
    _check_size(rows)
    named = {tensor.name: tensor for tensor in tensors}
    if NUMERIC in named and not _declares(use_case, NUMERIC):
        return vectors_of_tensors(named, inputs)
    for tensor in tensors:
        if tensor.columns != 1:
            raise RequestError(422, tensor.name, "a field's tensor has the shape [n] or [n, 1]")
    columns = {tensor.name: tensor.values() for tensor in tensors}
    questions = [{name: data[i] for name, data in columns.items()} for i in range(rows)]
    return [instance_of(i, q, use_case, now) for i, q in enumerate(questions)]


def _declares(use_case: UseCase, name: str) -> bool:
    return any(field.name == name for field in use_case.fields)


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
    for rule in use_case.rules:
        if not rule.holds(fields, asked):
            raise RequestError(422, f"{where}.{rule.field}", rule.says)
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
