"""Spans of a running server, as a collector receives them over a socket."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest
from otlp_collector import Collector
from serving_helpers import (
    FLIGHT,
    ask,
    certified_model,
    flights_store,
    free_port,
    start_server,
    wait_ready,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving.releases import write_current

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CASE = get_use_case("flights")
ASKED = {"instances": [FLIGHT]}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is up."""
    collector = Collector()
    yield collector
    collector.close()


async def ask_by_grpc(port: int) -> None:
    """The question of ``ASKED``, by KServe's own client."""
    inputs = []
    for name, value in FLIGHT.items():
        tensor = InferInput(name, [1], "FP64" if name == "distance" else "BYTES")
        tensor.set_data_from_numpy(numpy_of(value), binary_data=False)
        inputs.append(tensor)
    client = InferenceGRPCClient(f"127.0.0.1:{port}")
    await client.infer(InferRequest(model_name="flights", infer_inputs=inputs))
    await client.close()


def numpy_of(value: Any) -> Any:
    """A value as KServe's client takes it."""
    import numpy as np

    return np.array([float(value) if isinstance(value, int) else str(value).encode()])


def released(root: Path) -> Home:
    """A home with a champion and its features."""
    home = Home(root=root)
    folder, _ = certified_model(home, CASE, version="1.0.0")
    write_current(home, "flights", folder.name, folder, "1.0.0")
    flights_store(home)
    return home


def test_a_request_is_a_span_with_its_phases(tmp_path: Path, collector: Collector) -> None:
    home = released(tmp_path)
    port, grpc = free_port(), free_port()
    process = start_server(
        home, "--champion", "--port", str(port), "--grpc-port", str(grpc), "--trace-share", "1",
        "--allow-development-key", OTEL_EXPORTER_OTLP_ENDPOINT=collector.address,
    )  # fmt: skip
    try:
        wait_ready(process, port)
        path = "/v1/models/flights:predict"
        parent = f"00-{TRACE}-{PARENT}-01"
        good = ask(port, path, json.dumps(ASKED).encode(), traceparent=parent)
        assert good.status == 200, good.text
        bad = ask(port, path, b"{", traceparent=f"00-{TRACE[::-1]}-{PARENT}-01")
        assert bad.status == 400
        unsampled = ask(port, path, json.dumps(ASKED).encode(), traceparent=f"{parent[:-1]}0")
        assert unsampled.status == 200
        asyncio.run(ask_by_grpc(grpc))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0  # what was not sent yet is sent at the end
    finally:
        process.kill()
    spans = collector.spans()
    by_trace = {span.trace_id.hex() for span in spans}
    assert {TRACE, TRACE[::-1]} < by_trace
    assert len(by_trace) == 3  # the one over gRPC began its own; the unsampled one left none
    answered = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert set(answered) == {"POST", "parse", "features", "predict", "answer", "record"}
    request = answered.pop("POST")
    assert request.parent_span_id.hex() == PARENT
    told = {one.key: one.value for one in request.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["airworthy.version"].string_value == "1.0.0"
    for phase in answered.values():
        assert phase.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= phase.start_time_unix_nano
        assert phase.end_time_unix_nano <= request.end_time_unix_nano + 1_000_000
    (refused,) = (span for span in spans if span.trace_id.hex() == TRACE[::-1])
    codes = [one.value.int_value for one in refused.attributes if one.key.endswith("status_code")]
    assert codes == [400]
    assert any(span.name.endswith("/ModelInfer") for span in spans)


def test_a_collector_that_is_away_keeps_no_server_from_its_end(tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    process = start_server(
        released(tmp_path), "--champion", "--port", str(port), "--trace-share", "1",
        "--allow-development-key", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{nobody}",
    )  # fmt: skip
    try:
        wait_ready(process, port)
        body = json.dumps(ASKED).encode()
        assert ask(port, "/v1/models/flights:predict", body).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=9) == 0  # its exporter would try for ten seconds
    finally:
        process.kill()
