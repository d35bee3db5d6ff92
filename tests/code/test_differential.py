"""Our fast path and a plain KServe model, over the same files, answer alike."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import certified_model, flights_store, free_port, start_server, wait_ready

from feature_repo.home import Home
from feature_repo.inputs import Inputs, input_columns
from feature_repo.registry import get_use_case
from serving.tensors import pack

ROOT = Path(__file__).parents[2]
V1, V2 = "/v1/models/flights:predict", "/v2/models/flights/infer"
REQUESTS = 2000  # of each protocol
BATCHES = (1, 1, 1, 2, 5, 17)
INPUTS = input_columns(get_use_case("flights"))
Ask = tuple[str, dict[str, str], bytes]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Of the two servers."""

    ours: int
    plain: int


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """Our server, and a plain KServe server of the same model files."""
    folder = tmp_path_factory.mktemp("differential")
    home, log = Home(root=folder), folder / "log"
    model, _ = certified_model(home, get_use_case("flights"))
    flights_store(home)
    found = Ports(ours=free_port(), plain=free_port())
    names = {
        "BENCH_PORT": str(found.plain), "BENCH_MODEL": str(model), "BENCH_QUIET": "1",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with log.open("wb") as file:
        plain = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving_peers.kserve_server"],
            cwd=ROOT, env=os.environ | names, stdout=file, stderr=file,
        )  # fmt: skip
    ours = start_server(
        home, "--model-dir", str(model), "--port", str(found.ours), "--record", "1.0",
        "--allow-development-key",
    )  # fmt: skip
    try:
        wait_ready(ours, found.ours)
        _wait(plain, found.plain, log)
        yield found
    finally:
        for process in (ours, plain):
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise AssertionError("the plain server did not become ready")


def vectors(rng: np.random.Generator, inputs: Inputs) -> tuple[Any, list[list[str]]]:
    """Values of several magnitudes, whole ones, missing ones; categories known and unknown."""
    shape = int(rng.choice(BATCHES)), len(inputs.numeric)
    numeric = rng.normal(size=shape) * 10.0 ** rng.integers(-2, 4, shape)
    numeric = np.where(rng.random(shape) < 0.3, np.round(numeric), numeric)
    numeric[rng.random(shape) < rng.choice([0.0, 0.2])] = np.nan
    known = np.array(["EWR", "UA", "SFO", "", "Zürich", 'a"b'])
    return numeric, rng.choice(known, (shape[0], len(inputs.categorical))).tolist()


def v1(numeric: Any, words: list[list[str]]) -> Ask:
    """JSON; a missing number is null."""
    rows = [[None if np.isnan(v) else v for v in row] for row in numeric.tolist()]
    pairs = zip(rows, words, strict=True)
    instances = [{"numeric": values, "categorical": texts} for values, texts in pairs]
    return V1, {"content-type": "application/json"}, json.dumps({"instances": instances}).encode()


def v2(numeric: Any, words: list[list[str]]) -> Ask:
    """Binary tensors in and out; a missing number is NaN."""
    parts = [numeric.tobytes(), pack("BYTES", [text for row in words for text in row])]
    told: list[dict[str, Any]] = [
        {"name": "numeric", "datatype": "FP64", "shape": list(numeric.shape)},
        {"name": "categorical", "datatype": "BYTES", "shape": [len(words), len(words[0])]},
    ]
    for tensor, part in zip(told, parts, strict=True):
        tensor["parameters"] = {"binary_data_size": len(part)}
    question = {"id": "1", "inputs": told, "parameters": {"binary_data_output": True}}
    header = json.dumps(question).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(header)),
    }
    return V2, headers, b"".join([header, *parts])


def ask(connection: http.client.HTTPConnection, question: Ask) -> list[float]:
    """Scores of an answer of either server."""
    path, headers, body = question
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    if path == V1:
        found = json.loads(content)["predictions"]
        return [one["probability"] if isinstance(one, dict) else one for one in found]
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(content[:length])["outputs"][0]
    assert output["name"] == "probability"
    size = output["parameters"]["binary_data_size"]
    scores: list[float] = np.frombuffer(content[length : length + size], "<f8").tolist()
    return scores


@pytest.mark.parametrize("protocol", [v1, v2])
def test_the_fast_path_answers_as_a_plain_model(ports: Ports, protocol: Any) -> None:
    """Seeded requests of many kinds, each to both servers."""
    rng = np.random.default_rng(7)
    ours = http.client.HTTPConnection("127.0.0.1", ports.ours, timeout=30)
    theirs = http.client.HTTPConnection("127.0.0.1", ports.plain, timeout=30)
    differences, seen = [], set()
    for _ in range(REQUESTS):
        question = protocol(*vectors(rng, INPUTS))
        one, other = ask(ours, question), ask(theirs, question)
        assert len(one) == len(other)
        differences.append(np.abs(np.subtract(one, other)).max())
        seen.update(one)
    ours.close()
    theirs.close()
    assert max(differences) < 1e-6
    assert len(seen) > REQUESTS
