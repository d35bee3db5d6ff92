"""Bad input is a 4xx that names the field, never a 500; asked over a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving_helpers import FLIGHT, Running, ask, predict

PREDICT = "/v1/models/flights:predict"


def changed(**fields: Any) -> bytes:
    """A request whose instance differs from a good one."""
    return json.dumps({"instances": [{**FLIGHT, **fields}]}).encode()


def without(field: str) -> bytes:
    """A request that lacks a field."""
    return json.dumps({"instances": [{k: v for k, v in FLIGHT.items() if k != field}]}).encode()


GOOD = changed()
UA = {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["UA"]}
BAD: dict[str, tuple[bytes, int, str]] = {
    "empty body": (b"", 400, ""),
    "no JSON": (b"{", 400, ""),
    "no UTF-8": (b'{"instances": ["\xff"]}', 400, ""),
    "lone surrogate": (GOOD.replace(b"EWR", b"\\ud800"), 400, ""),
    "surrogate as a name": (b'{"instances": [{"\\ud800": 1}]}', 422, "instances[0].?"),
    "endless name": (b'{"' + b"x" * 5000 + b'": 1}', 422, "x" * 1000),
    "NaN literal": (GOOD.replace(b"2565", b"NaN"), 422, "instances[0].distance"),
    "infinity literal": (GOOD.replace(b"2565", b"Infinity"), 422, "instances[0].distance"),
    "deep nesting": (b"[" * 100_000, 400, ""),
    "a list": (b"[]", 400, ""),
    "no instances": (b"{}", 400, "instances"),
    "instances an object": (b'{"instances": {}}', 400, "instances"),
    "instances null": (b'{"instances": null}', 400, "instances"),
    "instances empty": (b'{"instances": []}', 400, "instances"),
    "unknown top field": (b'{"instances": [{}], "extra": 1}', 422, "extra"),
    "instance a list": (b'{"instances": [[1, 2]]}', 422, "instances[0]"),
    "instance null": (b'{"instances": [null]}', 422, "instances[0]"),
    "missing field": (without("dest"), 422, "instances[0].dest"),
    "missing nullable key": (without("tailnum"), 422, "instances[0].tailnum"),
    "unknown field": (changed(arr_delay=3), 422, "instances[0].arr_delay"),
    "null input": (changed(carrier=None), 422, "instances[0].carrier"),
    "null number": (changed(distance=None), 422, "instances[0].distance"),
    "number for a string": (changed(origin=3), 422, "instances[0].origin"),
    "list for a string": (changed(origin=["EWR"]), 422, "instances[0].origin"),
    "object for a string": (changed(origin={}), 422, "instances[0].origin"),
    "endless string": (changed(dest="X" * 300), 422, "instances[0].dest"),
    "null character": (changed(dest="SFO\0"), 422, "instances[0].dest"),
    "string for a number": (changed(distance="2565"), 422, "instances[0].distance"),
    "boolean for a number": (changed(distance=True), 422, "instances[0].distance"),
    "too small": (changed(distance=-1), 422, "instances[0].distance"),
    "too large": (changed(distance=1e6), 422, "instances[0].distance"),
    "huge integer": (GOOD.replace(b"2565", b"9" * 400), 422, "instances[0].distance"),
    "overflowing float": (GOOD.replace(b"2565", b"1e999"), 422, "instances[0].distance"),
    "local time": (
        changed(scheduled_departure="2013-11-05T10:05:00"), 422, "instances[0].scheduled_departure",
    ),
    "a date": (changed(scheduled_arrival="2013-11-05"), 422, "instances[0].scheduled_arrival"),
    "an epoch": (changed(scheduled_arrival=1383660000), 422, "instances[0].scheduled_arrival"),
    "no such day": (
        changed(scheduled_departure="2013-02-30T10:00:00Z"), 422,
        "instances[0].scheduled_departure",
    ),
    "year one": (
        changed(prediction_time="0001-01-01T00:00:00+14:00"), 422, "instances[0].prediction_time",
    ),
    "year 9999": (
        changed(prediction_time="9999-12-31T23:59:59-14:00"), 422, "instances[0].prediction_time",
    ),
    "local prediction time": (
        changed(prediction_time="2013-11-05T14:05:00"), 422, "instances[0].prediction_time",
    ),
    "null prediction time": (changed(prediction_time=None), 422, "instances[0].prediction_time"),
    "before the store": (
        changed(prediction_time="2013-11-05T14:04:59Z"), 409, "instances[0].prediction_time",
    ),
    "long after the store": (
        changed(prediction_time="2013-11-05T14:50:00Z"), 503, "instances[0].prediction_time",
    ),
    "now, of a flight of 2013": (
        without("prediction_time"), 422, "instances[0].scheduled_departure",
    ),
    "departs months ahead": (
        changed(
            scheduled_departure="2014-03-05T15:00:00Z", scheduled_arrival="2014-03-05T18:00:00Z"
        ),
        422, "instances[0].scheduled_departure",
    ),
    "arrives before it departs": (
        changed(scheduled_arrival=FLIGHT["scheduled_departure"]), 422,
        "instances[0].scheduled_arrival",
    ),
    "too many": (json.dumps({"instances": [{}] * 1025}).encode(), 413, "instances"),
    "too large a body": (b" " * (1024 * 1024 + 1), 413, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_4xx_that_names_the_field(running: Running, name: str) -> None:
    body, status, field = BAD[name]
    answer = ask(running.port, PREDICT, body)
    assert (answer.status, answer.body["error"]["field"]) == (status, field), answer.text
    assert answer.body["error"]["message"]


def test_one_bad_instance_refuses_the_batch_and_is_named(running: Running) -> None:
    answer = predict(running.port, FLIGHT, {**FLIGHT, "distance": "far"})
    assert (answer.status, answer.body["error"]["field"]) == (422, "instances[1].distance")


@pytest.mark.parametrize(
    ("path", "headers", "status", "field"),
    [
        ("/v1/models/other:predict", {}, 404, "model"),
        ("/v2/models/other/infer", {}, 404, "model"),
        ("/v1/models/flights:explain", {}, 404, ""),
        ("/v2/repository/models/flights/unload", {}, 403, "authorization"),
        (PREDICT, {"content_type": "text/plain"}, 415, "content-type"),
        (PREDICT, {"content_type": "application/json; charset=latin-1"}, 415, "content-type"),
        (PREDICT, {"content_encoding": "gzip"}, 400, "content-encoding"),
        (PREDICT, {"content_encoding": "br"}, 415, "content-encoding"),
        ("/v2/models/flights/infer", {"inference_header_content_length": "10"}, 400, ""),
        ("/v2/models/flights/infer", {"inference_header_content_length": "-1"}, 400, "inference"),
        ("/v2/models/flights/infer", {"inference_header_content_length": "9999"}, 400, "inference"),
    ],
)
def test_what_is_not_served_is_refused(
    running: Running, path: str, headers: dict[str, str], status: int, field: str
) -> None:
    answer = ask(running.port, path, GOOD, **headers)
    assert answer.status == status, answer.text
    assert answer.body["error"]["field"].startswith(field)
    assert ask(running.port, "/v2/models/flights/ready").status == 200


def test_a_content_type_with_a_charset_is_taken(running: Running) -> None:
    json_type = "application/json; charset=UTF-8"
    assert ask(running.port, PREDICT, GOOD, content_type=json_type).status == 200


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([], "inputs"),
        ([1], "inputs[0]"),
        ([{"name": "carrier", "shape": [1], "data": ["UA"]}], "carrier"),
        ([{**UA, "data": None}], "carrier"),
        ([{**UA, "shape": [3]}], "carrier"),
        ([UA] * 2, "carrier"),
        ([UA], "instances[0].origin"),
    ],
)
def test_bad_v2_input_is_a_4xx_that_names_the_tensor(
    running: Running, inputs: list[Any], field: str
) -> None:
    body = json.dumps({"inputs": inputs}).encode()
    answer = ask(running.port, "/v2/models/flights/infer", body)
    assert answer.status in {400, 422}
    assert answer.body["error"]["field"] == field
