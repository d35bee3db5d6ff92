"""A small certified model and its online store, made without training: for the serving tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.contract import UseCase
from feature_repo.fallback import fallback_reasons, request_only
from feature_repo.home import Home, digest_of, folder_digests
from feature_repo.inputs import input_columns
from feature_repo.online_rows import OnlineRows, rows_of
from feature_repo.packed import StoreState, entity_key, microseconds, row_format
from feature_repo.registry import get_use_case
from serving import revocations
from serving.artifact import FALLBACK, content_of
from serving.certificate import Certificate, issue
from serving.dsse import SigningKey, signing_key
from serving.predictions import Prediction, find
from serving.preprocess import Preprocessor
from tasks.ledger import append

NOW = datetime.now(timezone.utc)
TICK = datetime(2013, 11, 5, 14, 0, tzinfo=timezone.utc)
FLIGHT = {
    "carrier": "UA", "origin": "EWR", "dest": "SFO", "tailnum": "N12345", "flight": "1545",
    "distance": 2565, "scheduled_departure": "2013-11-05T15:05:00Z",
    "scheduled_arrival": "2013-11-05T21:20:00Z", "prediction_time": "2013-11-05T14:05:00Z",
}  # fmt: skip
StoredRows = list[tuple[Mapping[str, Any], datetime, Mapping[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server process that is up."""

    home: Home
    folder: Path
    port: int
    process: subprocess.Popen[str]
    grpc_port: int = 0


@dataclass(frozen=True, kw_only=True)
class Response:
    """An HTTP answer."""

    status: int
    body: Any
    text: str


def write_model(folder: Path, use_case: UseCase, threshold: float = 0.5) -> None:
    """Model files of a use case: a graph that weighs its inputs, and what the rest would be; with a
    fallback where one is declared."""
    _write_graph(folder, use_case, threshold)
    if fallback_reasons(use_case):
        _write_graph(folder / FALLBACK, request_only(use_case), threshold)
    for name in ("evaluation.json", "gate.json", "lineage.json"):
        (folder / name).write_text("{}")
    (folder / "card.md").write_text("# Card")
    (folder / "card.html").write_text("<h1>Card</h1>")
    (folder / "calibration.png").write_bytes(b"\x89PNG")


def _write_graph(folder: Path, use_case: UseCase, threshold: float) -> None:
    names = input_columns(use_case)
    inputs: dict[str, Any] = {n: np.array([0.0, 10.0, np.nan]) for n in names.numeric}
    inputs |= {n: np.array(["EWR", "UA", "SFO"], dtype=object) for n in names.categorical}
    preprocessor = Preprocessor.fit(names, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocess.json").write_text(preprocessor.to_json())
    (folder / "model.onnx").write_bytes(_graph(preprocessor, use_case.task == "binary"))
    model = {
        "use_case": use_case.name, "task": use_case.task, "label": use_case.label,
        "unit": use_case.unit, "threshold": threshold, "declaration": use_case.declaration,
        "inputs": {"numeric": names.numeric, "categorical": names.categorical},
        "views": [v.name for v in use_case.views], "lag_seconds": 300, "tick_seconds": 900,
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(model))


def predicate(use_case: UseCase, **changes: Any) -> dict[str, Any]:
    """What a certificate of such a model says, with ``changes``."""
    views = [v.name for v in use_case.views]
    return {
        "use_case": use_case.name,
        "features": {"declaration": use_case.declaration, "views": views},
        "gate": {"passed": True, "verdicts": []},
        "metrics": {"test.auc": 0.77},
        **changes,
    }


def certified_model(
    home: Home,
    use_case: UseCase,
    key: SigningKey | None = None,
    threshold: float = 0.5,
    **changes: Any,
) -> tuple[Path, Certificate]:
    """A certified model directory in the home, signed by ``key`` (the development key)."""
    folder = home.path("models", use_case.name, "new")
    write_model(folder, use_case, threshold)
    subject = digest_of(folder_digests(folder))
    folder = folder.rename(folder.with_name(subject))
    key = key or signing_key(home)
    revocations.complete(home, key, (), NOW)
    certificate = issue(key, folder, predicate(use_case, **changes), timedelta(days=90), NOW)
    content = content_of(certificate.files)
    told = {"use_case": use_case.name, "certificate": certificate.id, "content": content}
    append(home, "certificate", subject, told)
    return folder, certificate


def write_store(
    home: Home,
    use_case: UseCase,
    rows: Mapping[str, StoredRows],
    tick: datetime = TICK,
) -> OnlineRows:
    """The online store with just these ``rows``, by view: keys, event time, values."""
    packed: dict[bytes, bytes] = {}
    for view in use_case.views:
        form = row_format(view)
        for keys, instant, values in rows.get(view.name, []):
            features = np.array([[values.get(name, np.nan) for name in form.features]])
            at = [microseconds(instant)]
            (packed[form.key(entity_key(keys))],) = form.pack(at, at, features)
    state = StoreState(
        use_case=use_case.name, declaration=use_case.declaration, content="", tick=tick
    )
    store = rows_of(home, use_case)
    store.replace(packed, state.pack())
    return store


def flights_store(home: Home, tick: datetime = TICK) -> OnlineRows:
    """A store of flights: Newark's views are filled, others are not."""
    use_case = get_use_case("flights")
    rows: dict[str, StoredRows] = {}
    for view in use_case.views:
        keys = {k: FLIGHT[k] for k in view.entity.keys}
        values = {s.name: tick.timestamp() - 600 if s.as_age else 3.0 for s in view.features}
        rows[view.name] = [(keys, tick - timedelta(minutes=15), values)]
    return write_store(home, use_case, rows, tick)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_server(home: Home, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The server as a real process; its log goes to ``stderr``."""
    names = {"AIRWORTHY_TRUSTED_KEYS", "AIRWORTHY_SIGNING_KEY", "AIRWORTHY_ALLOW_DEVELOPMENT_KEY"}
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    command = [sys.executable, "-m", "serving.server", "--use-case", "flights"]
    return subprocess.Popen(
        [*command, "--home", str(home.root), *arguments],
        env=inherited | environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_ready(process: subprocess.Popen[str], port: int, seconds: float = 300) -> None:
    """Wait until the server says that it is ready; it must not have ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1]}")
        try:
            if ask(port, "/v2/health/ready").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")


def ask(
    port: int, path: str, body: bytes | None = None, method: str = "", **headers: str
) -> Response:
    """One request over a socket; keyword headers have underscores for dashes."""
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    if body is not None:
        named = {"content-type": "application/json"} | named
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=body, headers=named, method=method or None
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return Response(status=status, body=json.loads(text), text=text)
    except ValueError:
        return Response(status=status, body=None, text=text)


def find_recorded(home: Home, prediction_id: str) -> Prediction:
    """The record of an answer, which there must be."""
    found = find(home, prediction_id)
    assert found is not None, prediction_id
    return found


def predict(port: int, *instances: Mapping[str, Any]) -> Response:
    """Ask the V1 endpoint of flights."""
    body = json.dumps({"instances": list(instances)}).encode()
    return ask(port, "/v1/models/flights:predict", body)


def _graph(preprocessor: Preprocessor, binary: bool) -> bytes:
    """sigmoid(mean of numeric inputs + a hundredth of the category codes)."""
    from onnx import TensorProto, helper, numpy_helper

    shape = preprocessor.shape
    weights = np.full((shape.numeric, 1), 1 / shape.numeric, np.float32)
    codes = np.full((len(shape.cardinalities), 1), 0.01, np.float32)
    nodes = [
        helper.make_node("MatMul", ["numeric", "w"], ["a"]),
        helper.make_node("Cast", ["categorical"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["c", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["raw"]),
        helper.make_node("Squeeze", ["raw", "axis"], ["flat"]),
        helper.make_node("Sigmoid" if binary else "Identity", ["flat"], ["prediction"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", shape.numeric]),
            helper.make_tensor_value_info(
                "categorical", TensorProto.INT64, ["n", len(shape.cardinalities)]
            ),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["n"])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(codes, "v"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content
