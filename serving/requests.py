"""What a caller may ask: bodies to checked instances, or an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from feature_repo.errors import RequestError
from serving.answers import output_types
from serving.instances import Instance, InstanceForm
from serving.tensors import Tensor, read_tensors, wants_binary
from serving.vectors import NUMERIC, Vectors, vectors_of, vectors_of_tensors

if TYPE_CHECKING:
    from feature_repo.inputs import Inputs

MAX_BODY = 1024 * 1024
MAX_BATCH = 1024
# The path names the model; KServe's own client says it again.
_V2_FIELDS = {"id", "model_name", "model_version", "parameters", "inputs", "outputs"}


Question = list[Instance] | Vectors


def parse_v1(body: bytes, form: InstanceForm, inputs: Inputs, now: datetime) -> Question:
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
    if isinstance(first, dict) and NUMERIC in first and NUMERIC not in form.names:
        plain = b"true" not in body and b"false" not in body
        question = vectors_of(instances, inputs, plain)
    else:
        question = [form.instance(i, value, now) for i, value in enumerate(instances)]
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
    body: bytes, header: int | None, form: InstanceForm, inputs: Inputs, now: datetime
) -> Inference:
    """A V2 (Open Inference Protocol) body: one tensor [n] a field; or the full vectors as tensors
    ``numeric`` [n, numeric] and ``categorical`` [n, categorical]. ``header``: how many bytes of it
    are JSON, where binary data follow. Strings and instants are BYTES, numbers any number type.

    Raises:
        RequestError: 400 the body's form or an output that there is not, 413 too many instances,
            422 a tensor or a field.
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
    question = question_of(tensors, form, inputs, now)
    if fault is not None:
        raise fault
    binary = wants_binary(document)
    if outputs := document.get("outputs"):
        check_outputs([output["name"] for output in outputs], form, question)
    return Inference(id=said or "", question=question, binary=binary)


def check_outputs(names: Iterable[str], form: InstanceForm, question: Question) -> None:
    """Refuse a V2 request that names an output which its answer has not.

    Raises:
        RequestError: 400 names the first one.
    """
    known = output_types(form.task, stored=not isinstance(question, Vectors))
    for position, name in enumerate(names):
        if name not in known:
            raise RequestError(
                400, f"outputs[{position}].name",
                f"the outputs are {', '.join(known)}: name some of them, or leave 'outputs' out; "
                f"there is no {name!r}",
            )  # fmt: skip


def question_of(
    tensors: list[Tensor], form: InstanceForm, inputs: Inputs, now: datetime
) -> Question:
    """What tensors of one batch size ask.

    Raises:
        RequestError: 413 too many instances, 422 a tensor or a field.
    """
    rows = tensors[0].rows
    _check_size(rows)
    named = {tensor.name: tensor for tensor in tensors}
    if NUMERIC in named and NUMERIC not in form.names:
        return vectors_of_tensors(named, inputs)
    for tensor in tensors:
        if tensor.columns != 1:
            raise RequestError(422, tensor.name, "a field's tensor has the shape [n] or [n, 1]")
    columns = {tensor.name: tensor.values() for tensor in tensors}
    questions = [{name: data[i] for name, data in columns.items()} for i in range(rows)]
    return [form.instance(i, q, now) for i, q in enumerate(questions)]


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
