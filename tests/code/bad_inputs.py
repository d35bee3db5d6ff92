"""Wrong V1 predictions as raw requests, with the status that is due and the field at fault."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from serving_helpers import FLIGHT

from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving.requests import MAX_BODY

PREDICT, INFER = "/v1/models/flights:predict", "/v2/models/flights/infer"
NAMES = input_columns(get_use_case("flights"))
WIDTH, WORDS = len(NAMES.numeric), ["UA", "EWR", "SFO", "10", "1"]
VECTOR: dict[str, Any] = {"numeric": [0.5] * WIDTH, "categorical": WORDS}


class Bad(NamedTuple):
    """A request as it goes over the wire; ``field`` is what the error names as wrong."""

    raw: bytes
    status: int
    field: str = ""


def request(method: str, path: str, body: bytes = b"", **headers: str | None) -> bytes:
    """The bytes of a request; keyword headers have underscores for dashes, None leaves one out."""
    named: dict[str, str | None] = {"host": "x", "content-type": "application/json"}
    named |= {"content-length": str(len(body))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in named.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


def v1(body: bytes, status: int, field: str = "", **headers: str | None) -> Bad:
    """A V1 prediction."""
    return Bad(request("POST", PREDICT, body, **headers), status, field)


def asked(*instances: Any) -> bytes:
    """A V1 body."""
    return json.dumps({"instances": list(instances)}).encode()


def field(name: str, value: Any, status: int = 422) -> Bad:
    """A V1 prediction with one wrong field, which the error names."""
    return v1(asked({**FLIGHT, name: value}), status, f"instances[0].{name}")


def lacking(name: str, names: str = "") -> Bad:
    """A V1 prediction without a field."""
    left = {k: v for k, v in FLIGHT.items() if k != name}
    return v1(asked(left), 422, f"instances[0].{names or name}")


def vector(instance: Any, named: str = "") -> Bad:
    """A V1 prediction by vectors, the second of which is wrong."""
    return v1(asked(VECTOR, instance), 422, f"instances[1]{named and '.' + named}")


def number(value: Any) -> Any:
    """A vector whose first number is ``value``."""
    return {**VECTOR, "numeric": [value, *VECTOR["numeric"][1:]]}


def word(value: Any) -> Any:
    """A vector whose second category is ``value``."""
    return {**VECTOR, "categorical": [WORDS[0], value, *WORDS[2:]]}


GOOD = asked(FLIGHT)

BODIES = {
    "empty body": v1(b"", 400),
    "no JSON": v1(b"{", 400),
    "two documents": v1(GOOD + GOOD, 400),
    "no UTF-8": v1(b'{"instances": ["\xff"]}', 400),
    "UTF-16": v1(GOOD.decode().encode("utf-16"), 400),
    "byte order mark": v1(b"\xef\xbb\xbf" + GOOD, 400),
    "lone surrogate": v1(GOOD.replace(b"EWR", b"\\ud800"), 400),
    "surrogate as a name": v1(b'{"instances": [{"\\ud800": 1}]}', 422, "instances[0].?"),
    "endless name": v1(b'{"' + b"x" * 5000 + b'": 1}', 422, "x" * 1000),
    "NaN literal": v1(GOOD.replace(b"2565", b"NaN"), 422, "instances[0].distance"),
    "infinity literal": v1(GOOD.replace(b"2565", b"Infinity"), 422, "instances[0].distance"),
    "overflowing float": v1(GOOD.replace(b"2565", b"1e999"), 422, "instances[0].distance"),
    "huge integer": v1(GOOD.replace(b"2565", b"9" * 400), 422, "instances[0].distance"),
    "endless integer": v1(GOOD.replace(b"2565", b"9" * 5000), 400),
    "deep lists": v1(b"[" * 100_000, 400),
    "deep objects": v1(b'{"instances":' * 50_000, 400),
    "closed deep lists": v1(b'{"instances": %s%s}' % (b"[" * 900, b"]" * 900), 422, "instances[0]"),
    "a list": v1(b"[]", 400),
    "null": v1(b"null", 400),
    "no instances": v1(b"{}", 400, "instances"),
    "instances an object": v1(b'{"instances": {}}', 400, "instances"),
    "instances null": v1(b'{"instances": null}', 400, "instances"),
    "instances empty": v1(b'{"instances": []}', 400, "instances"),
    "unknown top field": v1(b'{"instances": [{}], "extra": 1}', 422, "extra"),
    "instance a list": v1(b'{"instances": [[1, 2]]}', 422, "instances[0]"),
    "instance null": v1(b'{"instances": [null]}', 422, "instances[0]"),
    "second instance": v1(
        asked(FLIGHT, {**FLIGHT, "distance": "far"}), 422, "instances[1].distance"
    ),
    "too many": v1(b'{"instances": [%s{}]}' % (b"{}," * 1024), 413, "instances"),
    "too large a body": v1(b" " * (MAX_BODY + 1), 413),
}  # fmt: skip
FIELDS = {
    "missing field": lacking("dest"),
    "missing nullable key": lacking("tailnum"),
    "unknown field": field("arr_delay", 3),
    "null input": field("carrier", None),
    "null number": field("distance", None),
    "number for a string": field("origin", 3),
    "list for a string": field("origin", ["EWR"]),
    "object for a string": field("origin", {}),
    "endless string": field("dest", "X" * 300),
    "null character": field("dest", "SFO\0"),
    "string for a number": field("distance", "2565"),
    "boolean for a number": field("distance", True),
    "list for a number": field("distance", [2565]),
    "too small": field("distance", -1),
    "too large": field("distance", 1e6),
    "local time": field("scheduled_departure", "2013-11-05T10:05:00"),
    "a date": field("scheduled_arrival", "2013-11-05"),
    "an epoch": field("scheduled_arrival", 1383660000),
    "no such day": field("scheduled_departure", "2013-02-30T10:00:00Z"),
    "empty instant": field("scheduled_departure", ""),
    "year one": field("prediction_time", "0001-01-01T00:00:00+14:00"),
    "year 9999": field("prediction_time", "9999-12-31T23:59:59-14:00"),
    "local prediction time": field("prediction_time", "2013-11-05T14:05:00"),
    "null prediction time": field("prediction_time", None),
    "before the store": field("prediction_time", "2013-11-05T14:04:59Z", 409),
    "now, of a flight of 2013": lacking("prediction_time", "scheduled_departure"),
    "departs months ahead": v1(
        asked({**FLIGHT, "scheduled_departure": "2014-03-05T15:00:00Z",
               "scheduled_arrival": "2014-03-05T18:00:00Z"}),
        422, "instances[0].scheduled_departure",
    ),
    "arrives before it departs": field("scheduled_arrival", FLIGHT["scheduled_departure"]),
}  # fmt: skip
VECTORS = {
    "vector: boolean": vector(number(True), "distance"),
    "vector: text": vector(number("1.5"), "distance"),
    "vector: object": vector(number({}), "distance"),
    "vector: huge integer": vector(number(10**400), "distance"),
    "vector: infinity": vector(number(float("inf")), "distance"),
    "vector: null category": vector(word(None), "origin"),
    "vector: number for a category": vector(word(7), "origin"),
    "vector: endless category": vector(word("x" * 300), "origin"),
    "vector: too short": vector({**VECTOR, "numeric": [1.0]}, "numeric"),
    "vector: empty": vector({**VECTOR, "numeric": []}, "numeric"),
    "vector: no list": vector({**VECTOR, "numeric": "many"}, "numeric"),
    "vector: nested": vector({**VECTOR, "numeric": [VECTOR["numeric"]]}, "numeric"),
    "vector: too many categories": vector({**VECTOR, "categorical": WORDS * 2}, "categorical"),
    "vector: categories missing": vector({"numeric": VECTOR["numeric"]}, "categorical"),
    "vector: another field": vector({**VECTOR, "origin": "EWR"}, "origin"),
    "vector: no object": vector([1.0]),
    "vector: by entity as well": vector(FLIGHT, "carrier"),
    "vector: a NaN literal": v1(
        asked(number(12345)).replace(b"12345", b"NaN"), 400
    ),
}  # fmt: skip
