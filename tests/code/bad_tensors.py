"""Wrong V2 predictions, as JSON and as binary data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from bad_inputs import INFER, WIDTH, WORDS, Bad, request
from serving_helpers import FLIGHT

from serving.tensors import pack


def tensors(**changes: Any) -> list[dict[str, Any]]:
    """The V2 tensors of a good question by entity; the one of a name is replaced or changed."""
    made = []
    for name, value in FLIGHT.items():
        kind = "FP64" if name == "distance" else "BYTES"
        made.append({"name": name, "datatype": kind, "shape": [1], "data": [value]})
        made[-1] |= changes.get(name, {})
    return made


def v2(inputs: Any, status: int, named: str = "", **more: Any) -> Bad:
    """A V2 prediction in JSON."""
    return Bad(
        request("POST", INFER, json.dumps({"inputs": inputs, **more}).encode()), status, named
    )


def binary(
    status: int, named: str = "", *, tail: bytes | None = None, length: str | None = None,
    kind: str = "application/octet-stream", **numeric: Any,
) -> Bad:  # fmt: skip
    """A V2 prediction of one vector as binary data, changed."""
    values, words = np.full(WIDTH, 0.5).tobytes(), pack("BYTES", WORDS)
    told: list[dict[str, Any]] = [
        {"name": "numeric", "datatype": "FP64", "shape": [1, WIDTH],
         "parameters": {"binary_data_size": len(values)}},
        {"name": "categorical", "datatype": "BYTES", "shape": [1, len(WORDS)],
         "parameters": {"binary_data_size": len(words)}},
    ]  # fmt: skip
    told[0] |= numeric
    header = json.dumps({"inputs": told}).encode()
    body = header + (values + words if tail is None else tail)
    length = str(len(header)) if length is None else length or None
    headers = {"content_type": kind, "inference_header_content_length": length}
    return Bad(request("POST", INFER, body, **headers), status, named)


def vectors(numbers: list[Any], words: list[Any] = WORDS) -> list[dict[str, Any]]:
    """The V2 tensors of one vector."""
    return [
        {"name": "numeric", "datatype": "FP64", "shape": [1, len(numbers)], "data": numbers},
        {"name": "categorical", "datatype": "BYTES", "shape": [1, len(words)], "data": words},
    ]


FINE, TEXTS = np.full(WIDTH, 0.5).tobytes(), pack("BYTES", WORDS)
LENGTH = "inference-header-content-length"
SIZE = {"parameters": {"binary_data_size": 8}}
UA = tensors()[0]
TENSORS = {
    "V2: no inputs": v2([], 400, "inputs"),
    "V2: inputs null": v2(None, 400, "inputs"),
    "V2: inputs an object": v2({}, 400, "inputs"),
    "V2: a number for a tensor": v2([1], 422, "inputs[0]"),
    "V2: no name": v2([{"shape": [1], "datatype": "BYTES", "data": ["UA"]}], 422, "inputs[0]"),
    "V2: no datatype": v2([{"name": "carrier", "shape": [1], "data": ["UA"]}], 422, "carrier"),
    "V2: unknown datatype": v2(tensors(carrier={"datatype": "STRING"}), 422, "carrier"),
    "V2: a list as datatype": v2(tensors(carrier={"datatype": ["BYTES"]}), 422, "carrier"),
    "V2: no data": v2(tensors(carrier={"data": None}), 422, "carrier"),
    "V2: mixed data": v2(tensors(carrier={"shape": [2], "data": [["UA"], "UA"]}), 422, "carrier"),
    "V2: ragged data": v2(
        [{**UA, "shape": [2, 2], "data": [["UA"], ["UA", "B6", "AA"]]}], 422, "carrier"
    ),
    "V2: deep data": v2(tensors(carrier={"data": [[["UA"]]]}), 422, "carrier.data[0]"),
    "V2: vector of texts": v2(vectors(["1.5"] * WIDTH), 422, "numeric.data[0]"),
    "V2: vector of booleans": v2(vectors([1.5, True] * (WIDTH // 2)), 422, "numeric.data[1]"),
    "V2: vector of objects": v2(vectors([{}] * WIDTH), 422, "numeric.data[0]"),
    "V2: vector of texts that says so": v2(
        [{**vectors(["1.5"] * WIDTH)[0], "datatype": "BYTES"}, vectors([])[1]], 422, "numeric"
    ),
    "V2: vector of a huge number": v2(vectors([10**400] * WIDTH), 422, "numeric"),
    "V2: vector of numbers for words": v2(
        vectors([1.0] * WIDTH, [1] * 5), 422, "categorical.data[0]"
    ),
    "V2: wrong shape": v2(tensors(carrier={"shape": [3]}), 422, "carrier"),
    "V2: negative shape": v2(tensors(carrier={"shape": [-1]}), 422, "carrier"),
    "V2: boolean shape": v2(tensors(carrier={"shape": [True]}), 422, "carrier"),
    "V2: three dimensions": v2(tensors(carrier={"shape": [1, 1, 1]}), 422, "carrier"),
    "V2: shape past all memory": v2(
        tensors(carrier={"shape": [2**31 - 1, 2**31 - 1]}), 422, "carrier"
    ),
    "V2: no shape": v2(tensors(carrier={"shape": None}), 422, "carrier"),
    "V2: empty batch": v2([{**UA, "shape": [0], "data": []}], 422, "inputs"),
    "V2: several batch sizes": v2(
        tensors(carrier={"shape": [2], "data": ["UA"] * 2}), 422, "inputs"
    ),
    "V2: a tensor twice": v2([*tensors(), UA], 422, "carrier"),
    "V2: a field missing": v2([UA], 422, "instances[0].origin"),
    "V2: a field unknown": v2([*tensors(), {**UA, "name": "delay"}], 422, "instances[0].delay"),
    "V2: wide field": v2(tensors(carrier={"shape": [1, 2], "data": ["UA", "B6"]}), 422, "carrier"),
    "V2: text for a number": v2(tensors(distance={"data": ["far"]}), 422, "distance.data[0]"),
    "V2: number for a text": v2(tensors(dest={"data": [5]}), 422, "dest.data[0]"),
    "V2: text that says it is a number": v2(
        tensors(dest={"datatype": "FP64"}), 422, "dest.data[0]"
    ),
    "V2: number that says it is a text": v2(
        tensors(distance={"datatype": "BYTES"}), 422, "distance.data[0]"
    ),
    "V2: number tensor for a text": v2(
        tensors(dest={"datatype": "FP64", "data": [5]}), 422, "instances[0].dest"
    ),
    "V2: too many": v2([{**UA, "shape": [1025], "data": ["UA"] * 1025}], 413, "instances"),
    "V2: id a number": v2(tensors(), 422, "id", id=7),
    "V2: unknown top field": v2(tensors(), 422, "extra", extra=7),
    "V2: parameters a list": v2(tensors(), 422, "parameters", parameters=[]),
    "V2: outputs a text": v2(tensors(), 422, "outputs", outputs="all"),
    "V2: output a text": v2(tensors(), 422, "outputs[0]", outputs=["probability"]),
    "V2: output's parameters a text": v2(
        tensors(), 422, "outputs[0].parameters", outputs=[{"name": "decision", "parameters": "b"}]
    ),
    "V2: unknown output": v2(
        tensors(), 400, "outputs[1].name", outputs=[{"name": "decision"}, {"name": "nope"}]
    ),
    "V2: unknown output, all binary": v2(
        tensors(), 400, "outputs[0].name", outputs=[{"name": "value"}],
        parameters={"binary_data_output": True},
    ),
    "V2: an output that a vector's answer has not": v2(
        vectors([0.5] * WIDTH), 400, "outputs[0].name", outputs=[{"name": "stale"}]
    ),
    "V2: vector too narrow": v2(
        [{"name": "numeric", "datatype": "FP64", "shape": [1, 1], "data": [1.0]},
         {"name": "categorical", "datatype": "BYTES", "shape": [1, 5], "data": WORDS}],
        422, "numeric",
    ),
    "V2: vector alone": v2(
        vectors([1.0] * WIDTH)[:1], 422, "inputs"
    ),
    "V2: size without binary data": v2(tensors(carrier=SIZE), 422, "carrier"),
}  # fmt: skip
BINARY = {
    "binary: not there": binary(422, "numeric", tail=b""),
    "binary: cut": binary(422, "categorical", tail=FINE + TEXTS[:-1]),
    "binary: something follows": binary(400, "inputs", tail=FINE + TEXTS + b"x"),
    "binary: infinite": binary(
        422, "numeric[0].distance", tail=np.array([np.inf]).tobytes() + FINE[8:] + TEXTS
    ),
    "binary: lying length of a text": binary(422, "categorical", tail=FINE + b"\xff" * len(TEXTS)),
    "binary: no UTF-8": binary(422, "categorical", tail=FINE + TEXTS.replace(b"UA", b"\xff\xff")),
    "binary: size a text": binary(422, "numeric", parameters={"binary_data_size": "many"}),
    "binary: size negative": binary(422, "numeric", parameters={"binary_data_size": -8}),
    "binary: size huge": binary(422, "numeric", parameters={"binary_data_size": 2**62}),
    "binary: size of another type": binary(422, "numeric", datatype="FP32"),
    "binary: unknown datatype": binary(422, "numeric", datatype="FP128"),
    "binary: size of another shape": binary(422, "numeric", shape=[2, WIDTH]),
    "binary: no header length": binary(415, "content-type", length=""),
    "binary: header length as JSON": binary(400, length="", kind="application/json"),
    "binary: header length a text": binary(400, LENGTH, length="many"),
    "binary: header length negative": binary(400, LENGTH, length="-1"),
    "binary: header length past the body": binary(400, LENGTH, length="9999"),
    "binary: header length endless": binary(400, LENGTH, length="9" * 5000),
    "binary: header length within the JSON": binary(400, length="10"),
    "binary: header length past the JSON": binary(400, length="280"),
}  # fmt: skip
