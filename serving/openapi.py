"""What the server may be asked and answers, as OpenAPI 3.1, from the use cases of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.answers import output_types
from serving.instances import MAX_STRING, TIME
from serving.requests import MAX_BATCH
from serving.tensors import NUMBERS
from serving.vectors import CATEGORICAL, NUMERIC

if TYPE_CHECKING:
    from feature_repo.contract import RequestField
    from serving.gateway import Gateway
    from serving.service import Service

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string", "maxLength": MAX_STRING, "pattern": "^[^\\x00]*$"}
_INSTANT: Schema = {"type": "string", "format": "date-time"}
_REFUSALS = {
    "400": "no JSON, no gzip, no instances, no such output", "401": "no token",
    "404": "no such model or version", "405": "another method", "408": "the body did not come",
    "409": "before the store's tick",
    "413": "too large a body or batch", "415": "another content type or encoding",
    "421": "of another arm of an experiment", "422": "a field is wrong, and named",
    "429": "the caller has its share", "503": "full, stale or without its store: ask again",
}  # fmt: skip


def document(gateway: Gateway) -> Schema:
    """The OpenAPI document of what is up now."""
    paths: dict[str, Schema] = {
        "/v2/health/ready": _get({"type": "object", "required": ["ready"]}),
        "/v2/health/live": _get({"type": "object", "required": ["live"]}),
        "/v2/models": _get({"type": "object", "required": ["models"]}),
    }
    for name in gateway.models.names:
        service = gateway.models.get(name)
        paths[f"/v1/models/{name}:predict"] = _post(_v1(service), ["predictions", "version"])
        paths[f"/v2/models/{name}/infer"] = _post(_v2(service), ["outputs", "model_version", "id"])
        paths[f"/v2/models/{name}"] = _get({"type": "object", "required": ["inputs", "outputs"]})
        paths[f"/v2/models/{name}/ready"] = _get({"type": "object", "required": ["ready"]})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Airworthy", "version": "1"},
        "paths": paths,
        "components": {"schemas": {"Error": _error()}},
    }


def _v1(service: Service) -> Schema:
    fields = {field.name: _field(field) for field in service.use_case.fields}
    entity = _object(fields, list(fields)) | {"properties": fields | {TIME: _INSTANT}}
    kinds: dict[str, Schema] = {NUMERIC: {"type": ["number", "null"]}, CATEGORICAL: _TEXT}
    names = {NUMERIC: service.inputs.numeric, CATEGORICAL: service.inputs.categorical}
    parts = {k: _list(kinds[k], len(v), len(v)) for k, v in names.items() if v}
    batches = [_list(kind, 1, MAX_BATCH) for kind in (entity, _object(parts, list(parts)))]
    return _object({"instances": {"anyOf": batches}}, ["instances"])


def _v2(service: Service) -> Schema:
    shape = _list({"type": "integer", "minimum": 0}, 1, 2)
    tensor = {
        "name": {"type": "string"}, "shape": shape, "data": {"type": "array"},
        "datatype": {"enum": ["BYTES", "BOOL", *NUMBERS]}, "parameters": {"type": "object"},
    }  # fmt: skip
    names = {"name": {"enum": list(output_types(service.use_case.task))}}
    asked = {"type": "object", "required": ["name"], "properties": names}
    inputs = {"type": "object", "required": ["name", "shape", "datatype"], "properties": tensor}
    text: Schema = {"type": "string"}
    told: Schema = {"id": text, "model_name": text, "model_version": text}
    told |= {"inputs": {"type": "array", "minItems": 1, "items": inputs}}
    told |= {"parameters": {"type": "object"}, "outputs": {"type": "array", "items": asked}}
    return _object(told, ["inputs"])


def _field(field: RequestField) -> Schema:
    if field.dtype == "timestamp":
        return _INSTANT
    if field.dtype == "number":
        return {"type": "number", "minimum": field.bounds[0], "maximum": field.bounds[1]}
    return _TEXT if field.model_input else _TEXT | {"type": ["string", "null"]}


def _post(body: Schema, required: list[str]) -> Schema:
    answer = {"type": "object", "required": required}
    asked = {"required": True, "content": _json(body)}
    return {"post": {"requestBody": asked, "responses": _responses(answer, _REFUSALS)}}


def _get(answer: Schema) -> Schema:
    responses = _responses(answer, {code: _REFUSALS[code] for code in ("404", "405")})
    return {"get": {"responses": responses | {"503": {"description": "not ready"}}}}


def _responses(answer: Schema, refusals: dict[str, str]) -> Schema:
    error = _json({"$ref": "#/components/schemas/Error"})
    refused = {code: {"description": why, "content": error} for code, why in refusals.items()}
    return {"200": {"description": "answered", "content": _json(answer)}, **refused}


def _error() -> Schema:
    told = _object({"field": {"type": "string"}, "message": {"type": "string"}}, [])
    return _object({"error": told | {"required": ["field", "message"]}}, ["error"])


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    kept = {"properties": properties, "required": required, "additionalProperties": False}
    return {"type": "object", **kept}


def _list(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}
