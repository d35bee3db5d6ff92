"""Questions by the full input vector: V1, V2 as JSON and as binary data, gRPC; all answer alike."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from serving_helpers import Running, ask, find_recorded

from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving import certificate
from serving.predictor import Predictor
from serving.recompute import recompute
from serving.tensors import pack

FLIGHTS = get_use_case("flights")
NAMES = input_columns(FLIGHTS)
WIDTH = len(NAMES.numeric)
WORDS = ["UA", "EWR", "SFO", "10", "1"]
PREDICT, INFER = "/v1/models/flights:predict", "/v2/models/flights/infer"
Numbers = list[float | None]


def vector(seed: int, missing: int = 0) -> dict[str, Any]:
    """A V1 instance; the first ``missing`` numbers are null."""
    numbers: Numbers = np.random.default_rng(seed).normal(size=WIDTH).round(3).tolist()
    return {"numeric": [None] * missing + numbers[missing:], "categorical": WORDS}


def v1(*instances: Any) -> bytes:
    """A V1 body."""
    return json.dumps({"instances": list(instances)}).encode()


def v2_json(rows: list[dict[str, Any]]) -> bytes:
    """The same vectors as V2 tensors."""
    return json.dumps(
        {
            "inputs": [
                {"name": "numeric", "datatype": "FP64", "shape": [len(rows), WIDTH],
                 "data": [row["numeric"] for row in rows]},
                {"name": "categorical", "datatype": "BYTES", "shape": [len(rows), len(WORDS)],
                 "data": [word for row in rows for word in row["categorical"]]},
            ]
        }
    ).encode()  # fmt: skip


def v2_binary(rows: list[dict[str, Any]], datatype: str = "FP64") -> tuple[bytes, int]:
    """The same as binary data, answers too; and the length of the JSON before them."""
    kind = {"FP64": np.float64, "FP32": np.float32}[datatype]
    numeric = np.array([row["numeric"] for row in rows], dtype=kind)
    words = pack("BYTES", [word for row in rows for word in row["categorical"]])
    sizes = (numeric.nbytes, len(words))
    shapes = ([len(rows), WIDTH], [len(rows), len(WORDS)])
    named = zip(("numeric", "categorical"), (datatype, "BYTES"), shapes, sizes, strict=True)
    header = json.dumps(
        {
            "inputs": [
                {"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": size}}
                for n, d, s, size in named
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    return header + numeric.tobytes() + words, len(header)


def probabilities(port: int, path: str, body: bytes) -> list[float]:
    """The answers in either protocol's JSON."""
    answer = ask(port, path, body)
    assert answer.status == 200, answer.text
    if path == PREDICT:
        return [one["probability"] for one in answer.body["predictions"]]
    (found,) = [o["data"] for o in answer.body["outputs"] if o["name"] == "probability"]
    return list(found)


@pytest.mark.parametrize("rows", [1, 3, 64, 300])
def test_every_form_of_a_batch_is_answered_as_the_predictor_does(
    running: Running, rows: int
) -> None:
    """A missing value is null in JSON and NaN in binary data."""
    asked = [vector(seed, missing=seed % 3) for seed in range(rows)]
    numeric = np.array([one["numeric"] for one in asked], dtype=np.float64)
    texts = [[word] * rows for word in WORDS]
    expected = Predictor(FLIGHTS, running.folder).predict_vectors(numeric, texts).scores
    assert probabilities(running.port, PREDICT, v1(*asked)) == pytest.approx(expected)
    assert probabilities(running.port, INFER, v2_json(asked)) == pytest.approx(expected)
    body, length = v2_binary(asked)
    status, answer, json_length = binary(running.port, body, length)
    assert status == 200
    outputs = {o["name"]: o for o in json.loads(answer[:json_length])["outputs"]}
    assert list(outputs) == ["probability", "prediction_id", "decision"]
    assert np.frombuffer(answer, "<f8", rows, json_length) == pytest.approx(expected)
    assert len(answer) == json_length + rows * (8 + 36 + 1)


def test_float32_is_taken_too(running: Running) -> None:
    body, length = v2_binary([vector(5)], "FP32")
    status, answer, json_length = binary(running.port, body, length)
    assert status == 200
    expected = probabilities(running.port, PREDICT, v1(vector(5)))
    assert np.frombuffer(answer, "<f8", 1, json_length) == pytest.approx(expected, abs=1e-5)


def test_a_vector_s_answer_is_recorded_and_gives_its_score_again(running: Running) -> None:
    said = ask(running.port, PREDICT, v1(vector(1, missing=2))).body["predictions"][0]
    assert set(said) == {"prediction_id", "probability", "decision", "unknown"}
    found = find_recorded(running.home, said["prediction_id"])
    assert found.layout == "vector"
    assert found.tick is None
    assert found.features[NAMES.numeric[0]] is None
    assert found.fields == dict(zip(NAMES.categorical, WORDS, strict=True))
    files = certificate.read(running.folder).files
    assert recompute(FLIGHTS, running.folder, files, found) == pytest.approx(said["probability"])


def test_a_value_that_training_never_held_is_named(running: Running) -> None:
    """The fixture's model knows EWR, UA and SFO as values of every categorical input."""
    strange = vector(1) | {"categorical": ["UA", "ewr", "SFO", "EWR", "UA"]}
    (said,) = ask(running.port, PREDICT, v1(strange)).body["predictions"]
    assert said["unknown"] == ["origin"]
    assert 'airworthy_unknown_values_total{input="origin"' in ask(running.port, "/metrics").text


def test_the_order_of_a_vector_is_in_the_metadata(running: Running) -> None:
    told = ask(running.port, "/v2/models/flights").body["parameters"]
    assert told["numeric"] == list(NAMES.numeric)
    assert told["categorical"] == list(NAMES.categorical)


def binary(port: int, body: bytes, length: int) -> tuple[int, bytes, int]:
    """A V2 request with binary data: status, body, and the length of its JSON."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{INFER}", data=body,
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(length),
        },
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = answer.headers["inference-header-content-length"]
            return answer.status, answer.read(), int(told)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), 0
