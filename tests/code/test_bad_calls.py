"""Bad input over gRPC is refused with a status and by name; deadlines hold; the server goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from bad_inputs import WIDTH
from bad_tensors import FINE, TEXTS
from serving_helpers import FLIGHT, Running, ask

from serving.arguments import without_arguments
from serving.requests import MAX_BODY

with without_arguments():
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

Message = Any


@pytest.fixture(scope="module")
def stub(running: Running) -> Iterator[Any]:
    """The server's gRPC face."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}", options) as channel:
        yield GRPCInferenceServiceStub(channel)


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Message:
    """An input; ``contents`` by the name of their field."""
    held = messages.InferTensorContents(**contents) if contents else None
    kind = messages.ModelInferRequest.InferInputTensor
    return kind(name=name, datatype=datatype, shape=shape, contents=held)


def entity(**changes: Message) -> Message:
    """A question by entity; an input may be replaced, or left out by None."""
    inputs = {}
    for name, value in FLIGHT.items():
        if isinstance(value, str):
            inputs[name] = tensor(name, "BYTES", [1], bytes_contents=[value.encode()])
        else:
            inputs[name] = tensor(name, "FP64", [1], fp64_contents=[value])
    inputs |= changes
    return messages.ModelInferRequest(
        model_name="flights", inputs=[given for given in inputs.values() if given is not None]
    )


def text(name: str, value: bytes) -> Message:
    """A question by entity with another text."""
    return entity(**{name: tensor(name, "BYTES", [1], bytes_contents=[value])})


def vector(raw: list[bytes], rows: int = 1, width: int = WIDTH, datatype: str = "FP64") -> Message:
    """A question by vectors as raw contents."""
    inputs = [tensor("numeric", datatype, [rows, width]), tensor("categorical", "BYTES", [rows, 5])]
    return messages.ModelInferRequest(model_name="flights", inputs=inputs, raw_input_contents=raw)


def changed(message: Message, **fields: Any) -> Message:
    """A message with other fields."""
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def asking(*outputs: str) -> Message:
    """A question by entity that names its outputs."""
    message = entity()
    for name in outputs:
        message.outputs.add(name=name)
    return message


LONE = [tensor("carrier", "BYTES", [1], bytes_contents=[b"UA"])]
BOTH = vector([FINE, TEXTS])
BOTH.inputs[0].contents.fp64_contents.append(1.0)
BAD: dict[str, tuple[Message, str, str]] = {
    "nothing": (messages.ModelInferRequest(), "NOT_FOUND", "model"),
    "unknown model": (changed(entity(), model_name="other"), "NOT_FOUND", "other"),
    "unknown version": (changed(entity(), model_version="9"), "NOT_FOUND", "9"),
    "no inputs": (messages.ModelInferRequest(model_name="flights"), "INVALID_ARGUMENT", "inputs"),
    "missing field": (entity(dest=None), "INVALID_ARGUMENT", "dest"),
    "unknown field": (
        entity(delay=tensor("delay", "FP64", [1], fp64_contents=[3])), "INVALID_ARGUMENT", "delay"
    ),
    "twice": (entity(more=entity().inputs[0]), "INVALID_ARGUMENT", "carrier"),
    "text for a number": (text("distance", b"far"), "INVALID_ARGUMENT", "distance"),
    "number for a text": (
        entity(dest=tensor("dest", "FP64", [1], fp64_contents=[3])), "INVALID_ARGUMENT", "dest"
    ),
    "NaN": (
        entity(distance=tensor("distance", "FP64", [1], fp64_contents=[float("nan")])),
        "INVALID_ARGUMENT", "distance",
    ),
    "infinity": (
        entity(distance=tensor("distance", "FP64", [1], fp64_contents=[float("inf")])),
        "INVALID_ARGUMENT", "distance",
    ),
    "endless text": (text("dest", b"x" * 300), "INVALID_ARGUMENT", "dest"),
    "no UTF-8": (text("dest", b"\xff"), "INVALID_ARGUMENT", "dest"),
    "bad instant": (text("prediction_time", b"noon"), "INVALID_ARGUMENT", "prediction_time"),
    "too early": (
        text("prediction_time", b"2013-11-05T14:00:00Z"), "FAILED_PRECONDITION", "prediction_time"
    ),
    "unknown datatype": (
        entity(dest=tensor("dest", "STRING", [1], bytes_contents=[b"SFO"])),
        "INVALID_ARGUMENT", "dest",
    ),
    "contents of another type": (
        entity(dest=tensor("dest", "BYTES", [1], fp64_contents=[3])), "INVALID_ARGUMENT", "dest"
    ),
    "no contents": (entity(dest=tensor("dest", "BYTES", [1])), "INVALID_ARGUMENT", "dest"),
    "negative shape": (
        entity(dest=tensor("dest", "BYTES", [-1], bytes_contents=[b"SFO"])),
        "INVALID_ARGUMENT", "dest",
    ),
    "no shape": (
        entity(dest=tensor("dest", "BYTES", [], bytes_contents=[b"SFO"])),
        "INVALID_ARGUMENT", "dest",
    ),
    "huge shape": (
        entity(dest=tensor("dest", "BYTES", [2**62, 2**62], bytes_contents=[b"SFO"])),
        "INVALID_ARGUMENT", "dest",
    ),
    "several batch sizes": (
        entity(dest=tensor("dest", "BYTES", [2], bytes_contents=[b"SFO"] * 2)),
        "INVALID_ARGUMENT", "inputs",
    ),
    "unknown output": (asking("decision", "nope"), "INVALID_ARGUMENT", "'nope'"),
    "raw: too few": (vector([FINE]), "INVALID_ARGUMENT", "raw_input_contents"),
    "raw: contents too": (BOTH, "INVALID_ARGUMENT", "numeric"),
    "raw: cut": (vector([FINE[:-1], TEXTS]), "INVALID_ARGUMENT", "numeric"),
    "raw: lying length": (vector([FINE, b"\xff" * 9]), "INVALID_ARGUMENT", "categorical"),
    "raw: another type": (vector([FINE, TEXTS], datatype="FP32"), "INVALID_ARGUMENT", "numeric"),
    "raw: infinite": (
        vector([struct.pack("<d", float("inf")) + FINE[8:], TEXTS]), "INVALID_ARGUMENT", "distance"
    ),
    "raw: too narrow": (vector([FINE[:24], TEXTS], width=3), "INVALID_ARGUMENT", "numeric"),
    "too many": (
        entity(dest=tensor("dest", "BYTES", [1025], bytes_contents=[b"SFO"] * 1025)),
        "INVALID_ARGUMENT", "inputs",
    ),
    "too large": (changed(entity(), id="x" * (2 * MAX_BODY)), "RESOURCE_EXHAUSTED", "than max"),
}  # fmt: skip


def refused(call: Callable[..., Any], message: Message, **options: Any) -> grpc.RpcError:
    """The error of a call, which there must be."""
    with pytest.raises(grpc.RpcError) as found:
        call(message, **({"timeout": 30} | options))
    return found.value


@pytest.mark.parametrize("name", BAD)
def test_a_bad_call_is_refused_by_name(stub: Any, name: str) -> None:
    message, status, said = BAD[name]
    error: Any = refused(stub.ModelInfer, message)
    assert error.code().name == status, error.details()
    assert said in error.details()
    assert "Traceback" not in error.details()
    assert len(stub.ModelInfer(entity(), timeout=30).outputs) == 5


def test_a_compressed_bomb_is_refused(stub: Any) -> None:
    bomb = changed(entity(), id="x" * (64 * MAX_BODY))
    error: Any = refused(stub.ModelInfer, bomb, compression=grpc.Compression.Gzip)
    assert error.code().name == "RESOURCE_EXHAUSTED"


def test_metadata_in_bytes_are_taken(stub: Any) -> None:
    metadata = [("x-some-bin", b"\xff\0"), ("x-request-id", "r" * 5000)]
    assert stub.ModelInfer(entity(), timeout=30, metadata=metadata).model_name == "flights"


def test_models_are_not_changed_over_grpc_and_what_is_not_there_is_not_found(
    running: Running, stub: Any
) -> None:
    load = messages.RepositoryModelLoadRequest(model_name="flights")
    unload = messages.RepositoryModelUnloadRequest(model_name="flights")
    for call, message, status in (
        (stub.RepositoryModelLoad, load, "PERMISSION_DENIED"),
        (stub.RepositoryModelUnload, unload, "PERMISSION_DENIED"),
        (stub.ModelMetadata, messages.ModelMetadataRequest(name="other"), "NOT_FOUND"),
        (stub.ModelReady, messages.ModelReadyRequest(name="other"), "NOT_FOUND"),
    ):
        error: Any = refused(call, message)
        assert error.code().name == status, error.details()
    assert ask(running.port, "/v2/models/flights/ready").status == 200


def test_a_deadline_is_kept(running: Running, stub: Any) -> None:
    """Of a call that has no time the caller hears at once; its place is free again."""
    error: Any = refused(stub.ModelInfer, entity(), timeout=0.0001)
    assert error.code().name == "DEADLINE_EXCEEDED"
    assert stub.ModelInfer(entity(), timeout=30).model_name == "flights"
    assert "airworthy_open_requests 0.0" in ask(running.port, "/metrics").text
