"""KServe's own clients work unchanged, over REST and over gRPC; gRPC's refusals carry a status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from serving_helpers import (
    FLIGHT,
    Running,
    ask,
    find_recorded,
    predict,
)

from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving.arguments import without_arguments

FLIGHTS = get_use_case("flights")
NAMES = input_columns(FLIGHTS)
WORDS = ["UA", "EWR", "SFO", "10", "1"]


@pytest.fixture(scope="module")
def grpc(running: Running) -> tuple[Running, int]:
    """A server that speaks gRPC too, and that port."""
    return running, running.grpc_port


def by_entity(**changes: Any) -> Any:
    """A request by entity keys and request fields, as KServe's objects have it."""
    from kserve import InferInput, InferRequest

    asked = {**FLIGHT, **changes}
    inputs = []
    for name, value in asked.items():
        kind = "FP64" if isinstance(value, float | int) else "BYTES"
        inputs.append(InferInput(name, [1], kind, data=[value]))
    return InferRequest(model_name="flights", infer_inputs=inputs, request_id="mine")


def by_vector(rows: int, width: int = len(NAMES.numeric)) -> Any:
    """A request by full vectors, as binary tensors."""
    from kserve import InferInput, InferRequest

    numeric = InferInput("numeric", [rows, width], "FP64")
    numeric.set_data_from_numpy(np.full((rows, width), 2.0), binary_data=True)
    words = InferInput("categorical", [rows, len(WORDS)], "BYTES")
    words.set_data_from_numpy(np.array([WORDS] * rows, dtype=object), binary_data=True)
    return InferRequest(model_name="flights", infer_inputs=[numeric, words], request_id="mine")


def infer(grpc: tuple[Running, int], over: str, request: Callable[[], Any]) -> Any:
    """A request through KServe's client."""
    with without_arguments():
        from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig

    async def call() -> Any:
        if over == "grpc":
            client = InferenceGRPCClient(f"127.0.0.1:{grpc[1]}")
            assert await client.is_model_ready("flights")
            answer: Awaitable[Any] = client.infer(request())
        else:
            client = InferenceRESTClient(RESTConfig(protocol="v2"))
            url = f"http://127.0.0.1:{grpc[0].port}"
            assert await client.is_model_ready(url, "flights")
            answer = client.infer(url, request(), model_name="flights")
        found = await answer
        await client.close()
        return found

    return asyncio.run(call())


def output(answer: Any, name: str) -> list[Any]:
    """Values of an output; gRPC has strings as bytes."""
    values = answer.get_output_by_name(name).as_numpy().tolist()
    return [v.decode() if isinstance(v, bytes) else v for v in values]


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_a_question_by_entity_is_answered_and_recorded(
    grpc: tuple[Running, int], over: str
) -> None:
    answer = infer(grpc, over, by_entity)
    expected = predict(grpc[0].port, FLIGHT).body["predictions"][0]
    assert output(answer, "probability") == pytest.approx([expected["probability"]])
    assert output(answer, "decision") == [expected["decision"]]
    assert answer.id == "mine"
    (prediction_id,) = output(answer, "prediction_id")
    assert find_recorded(grpc[0].home, prediction_id).fields["carrier"] == FLIGHT["carrier"]
    assert 'protocol="grpc"' in ask(grpc[0].port, "/metrics").text or over == "rest"


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_an_answer_of_the_fallback_says_so(grpc: tuple[Running, int], over: str) -> None:
    answer = infer(grpc, over, lambda: by_entity(prediction_time="2013-11-05T14:50:00Z"))
    told = answer.parameters["fallback"]
    assert json.loads(getattr(told, "string_param", told)) == [["stale"]]


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_vectors_are_answered(grpc: tuple[Running, int], over: str) -> None:
    answer = infer(grpc, over, lambda: by_vector(3))
    assert len(set(output(answer, "probability"))) == 1
    assert len(set(output(answer, "prediction_id"))) == 3
