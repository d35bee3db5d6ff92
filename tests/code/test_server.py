"""The server as a real process, asked over a socket."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import (
    FLIGHT,
    NOW,
    TICK,
    Response,
    ask,
    certified_model,
    flights_store,
    free_port,
    predicate,
    predict,
    start_server,
    wait_ready,
    write_model,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import certificate, dsse
from serving.predictions import find
from serving.predictor import Predictor
from serving.statements import write_statement

FLIGHTS = get_use_case("flights")
PREDICT = "/v1/models/flights:predict"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that is up."""

    home: Home
    folder: Path
    port: int
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a certified model and an online store."""
    home = Home(root=tmp_path_factory.mktemp("home"))
    certified_model(home, FLIGHTS, version="1.2.3")
    flights_store(home)
    return home


@pytest.fixture(scope="module")
def folder(home: Home) -> Path:
    """The certified model directory."""
    (found,) = (home.root / "models" / "flights").iterdir()
    return found


@pytest.fixture(scope="module")
def running(home: Home, folder: Path) -> Iterator[Running]:
    """One server for the module's questions."""
    port = free_port()
    process = start_server(
        home, "--model-dir", str(folder), "--port", str(port), "--allow-development-key"
    )
    wait_ready(process, port)
    yield Running(home=home, folder=folder, port=port, process=process)
    process.kill()
    process.communicate()


def test_an_answer_names_everything_that_it_came_from(running: Running) -> None:
    answer = predict(running.port, FLIGHT)
    assert answer.status == 200
    assert answer.body["model"] == "flights"
    assert answer.body["version"] == "1.2.3"
    assert answer.body["certificate"] == certificate.read(running.folder).id
    (one,) = answer.body["predictions"]
    assert 0 < one["probability"] < 1
    assert one["decision"] is (one["probability"] >= 0.5)
    assert one["tick"] == "2013-11-05T14:00:00+00:00"
    assert set(one["ages_minutes"].values()) == {15.0}
    assert one["missing"] == []
    assert re.fullmatch("[0-9a-f]{32}", one["prediction_id"])


def test_the_answer_is_what_the_predictor_says_offline(running: Running) -> None:
    """From a training-set row: fields, stored features, tick."""
    columns: dict[str, Any] = {n: np.array([FLIGHT[n]], dtype=object) for n in FLIGHT}
    for name in ("scheduled_departure", "scheduled_arrival"):
        columns[name] = np.array([str(FLIGHT[name])[:-1]], dtype="datetime64[s]")
    columns["distance"] = np.array([2565.0])
    for spec in FLIGHTS.features:
        columns[spec.name] = np.array([TICK.timestamp() - 600 if spec.as_age else 3.0])
    columns["tick"] = np.array([TICK.replace(tzinfo=None)], dtype="datetime64[s]")
    expected = Predictor(FLIGHTS, running.folder).predict(columns)[0]
    answer = predict(running.port, FLIGHT).body["predictions"][0]["probability"]
    assert answer == pytest.approx(expected, abs=1e-9)


def test_a_batch_answers_in_order_and_as_single_questions_do(running: Running) -> None:
    questions = [{**FLIGHT, "distance": 100.0 * i, "carrier": c} for i, c in enumerate("AB", 1)]
    batch = predict(running.port, *questions).body["predictions"]
    single = [predict(running.port, q).body["predictions"][0] for q in questions]
    assert [b["probability"] for b in batch] == pytest.approx([s["probability"] for s in single])
    assert len({p["prediction_id"] for p in batch + single}) == 4


def test_the_largest_batch_is_answered(running: Running) -> None:
    """Field names repeat in each instance, so this is not far from the body's limit either."""
    answer = predict(running.port, *[FLIGHT] * 1024)
    assert answer.status == 200
    assert len(answer.body["predictions"]) == 1024


def test_an_unknown_aircraft_is_answered_and_its_views_are_named_missing(running: Running) -> None:
    answer = predict(running.port, {**FLIGHT, "tailnum": None}, {**FLIGHT, "tailnum": "N0"})
    for one in answer.body["predictions"]:
        assert one["missing"] == ["tail_arrivals", "tail_departures"]
        assert one["ages_minutes"]["tail_arrivals"] is None
        assert np.isfinite(one["probability"])


def test_v2_answers_the_same(running: Running) -> None:
    kinds = dict.fromkeys(FLIGHT, "BYTES") | {"distance": "FP64"}
    tensors = [
        {"name": n, "datatype": kinds[n], "shape": [2], "data": [FLIGHT[n]] * 2} for n in FLIGHT
    ]
    body = json.dumps({"id": "my-id", "inputs": tensors}).encode()
    answer = ask(running.port, "/v2/models/flights/infer", body)
    assert answer.status == 200
    assert answer.body["id"] == "my-id"
    outputs = {o["name"]: o["data"] for o in answer.body["outputs"]}
    expected = predict(running.port, FLIGHT).body["predictions"][0]["probability"]
    assert outputs["probability"] == pytest.approx([expected] * 2)
    assert find(running.home, outputs["prediction_id"][1]) is not None


def test_kserve_still_answers_metadata_probes_and_metrics(running: Running) -> None:
    port = running.port
    assert ask(port, "/v2/models/flights/ready").body == {"name": "flights", "ready": True}
    assert ask(port, "/v2/health/ready").body == {"ready": True}
    assert ask(port, "/v2/health/live").body == {"live": True}
    inputs = {i["name"]: i["datatype"] for i in ask(port, "/v2/models/flights").body["inputs"]}
    assert inputs["carrier"] == "BYTES"
    assert inputs["distance"] == "FP64"
    assert ask(port, "/v2/models/other/ready").status == 404
    metrics = ask(port, "/metrics").text
    assert re.search(r'airworthy_requests_total\{code="200",model="flights",.*\} \d', metrics)
    assert 'certificate="cert-' in metrics
    assert re.search(r"airworthy_certificate_expired\{.*\} 0\.0", metrics)


def changed(**fields: Any) -> bytes:
    """A request whose instance differs from a good one."""
    return json.dumps({"instances": [{**FLIGHT, **fields}]}).encode()


def without(field: str) -> bytes:
    """A request that lacks a field."""
    return json.dumps({"instances": [{k: v for k, v in FLIGHT.items() if k != field}]}).encode()


GOOD = changed()
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
    "now, with a store of 2013": (without("prediction_time"), 503, "instances[0].prediction_time"),
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
        ("/v2/repository/models/flights/unload", {}, 404, ""),
        (PREDICT, {"content_type": "text/plain"}, 415, "content-type"),
        (PREDICT, {"content_type": "application/json; charset=latin-1"}, 415, "content-type"),
        (PREDICT, {"content_encoding": "gzip"}, 415, "content-encoding"),
        ("/v2/models/flights/infer", {"inference_header_content_length": "10"}, 415, "inference"),
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
        ([{"name": "carrier", "shape": [1]}], "carrier"),
        ([{"name": "carrier", "shape": [3], "data": ["UA"]}], "carrier"),
        ([{"name": "carrier", "shape": [1], "data": ["UA"]}] * 2, "carrier"),
        ([{"name": "carrier", "shape": [1], "data": ["UA"]}], "instances[0].origin"),
    ],
)
def test_bad_v2_input_is_a_4xx_that_names_the_tensor(
    running: Running, inputs: list[Any], field: str
) -> None:
    body = json.dumps({"inputs": inputs}).encode()
    answer = ask(running.port, "/v2/models/flights/infer", body)
    assert answer.status in {400, 422}
    assert answer.body["error"]["field"] == field


def test_a_tick_within_the_stale_limit_is_answered_as_of_the_store(running: Running) -> None:
    answer = predict(running.port, {**FLIGHT, "prediction_time": "2013-11-05T14:49:59Z"})
    assert answer.status == 200
    assert answer.body["predictions"][0]["tick"] == "2013-11-05T14:00:00+00:00"


def test_a_replaced_store_is_read_without_a_restart(running: Running) -> None:
    later = TICK + timedelta(hours=1)
    asked = {**FLIGHT, "prediction_time": "2013-11-05T15:05:00Z"}
    assert predict(running.port, asked).status == 503
    try:
        flights_store(running.home, later)
        assert predict(running.port, asked).body["predictions"][0]["tick"] == later.isoformat()
        assert predict(running.port, FLIGHT).status == 409
    finally:
        flights_store(running.home)
    assert predict(running.port, FLIGHT).status == 200


def test_without_its_store_the_server_is_not_ready(running: Running) -> None:
    store = running.home.path("online", "flights.db")
    away = store.rename(store.with_suffix(".away"))
    try:
        assert ask(running.port, "/v2/health/ready").status == 503
        assert ask(running.port, "/v2/models/flights/ready").status == 503
        answer = predict(running.port, FLIGHT)
        assert answer.status == 503
        assert "online store" in answer.body["error"]["message"]
    finally:
        away.rename(store)
    assert ask(running.port, "/v2/health/ready").status == 200


def test_an_answer_survives_kill_9_and_a_new_server_stops_at_sigterm(
    home: Home, folder: Path
) -> None:
    """The record is on disk before the answer is sent."""
    port = free_port()
    arguments = ("--model-dir", str(folder), "--port", str(port), "--allow-development-key")
    process = start_server(home, *arguments)
    wait_ready(process, port)
    answer = predict(port, FLIGHT)
    process.kill()
    process.communicate()
    said = answer.body["predictions"][0]
    found = find(home, said["prediction_id"])
    assert found is not None
    assert found.score == said["probability"]
    assert found.certificate == answer.body["certificate"]
    assert found.subject == folder.name
    assert found.version == "1.2.3"
    assert found.tick == TICK
    assert found.fields["tailnum"] == "N12345"
    assert found.prediction_time == datetime(2013, 11, 5, 14, 5, tzinfo=timezone.utc)
    assert set(found.features) == {s.name for s in FLIGHTS.features}
    assert find(home, "0" * 32) is None

    process = start_server(home, *arguments)
    wait_ready(process, port)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    events = [line["event"] for line in lines]
    assert events[0] == "model cleared"
    assert any("development key" in event for event in events)
    assert "stopped" in events


def refused(home: Home, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and only log line of a server that must not serve."""
    port = free_port()
    process = start_server(home, "--port", str(port), *arguments, **environment)
    _, log = process.communicate(timeout=60)
    with pytest.raises(OSError, match="refused"):
        ask(port, "/v2/health/ready")
    (line,) = log.strip().splitlines()
    return process.returncode, json.loads(line)["reason"]


@pytest.fixture
def own(tmp_path: Path) -> tuple[Home, Path]:
    """A home and a model that a test may harm."""
    home = Home(root=tmp_path)
    folder, _ = certified_model(home, FLIGHTS)
    flights_store(home)
    return home, folder


def test_a_changed_byte_ends_with_3_and_names_the_file(own: tuple[Home, Path]) -> None:
    home, folder = own
    graph = bytearray((folder / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (folder / "model.onnx").write_bytes(graph)
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 3
    assert "changed: model.onnx" in reason


def test_a_development_key_ends_with_3_where_nobody_allows_it(own: tuple[Home, Path]) -> None:
    home, folder = own
    code, reason = refused(home, "--model-dir", str(folder))
    assert code == 3
    assert "--allow-development-key" in reason


def test_no_certificate_ends_with_3(own: tuple[Home, Path]) -> None:
    home, folder = own
    (folder / "certificate.json").unlink()
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 3
    assert "certificate.json does not exist" in reason


def test_a_revoked_model_ends_with_3(own: tuple[Home, Path]) -> None:
    home, folder = own
    certificate.revoke(home, dsse.signing_key(home), certificate.read(folder).id, "test", NOW)
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 3
    assert "revoked" in reason


def test_a_model_of_another_declaration_ends_with_3(own: tuple[Home, Path]) -> None:
    """Certified, but trained for features that this program does not declare."""
    home, _ = own
    folder = home.path("models", "flights", "old")
    write_model(folder, FLIGHTS)
    model = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(model | {"declaration": "0" * 64}))
    said = predicate(FLIGHTS, features={"declaration": "0" * 64, "views": []})
    certificate.issue(dsse.signing_key(home), folder, said, timedelta(days=1), NOW)
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 3
    assert "declaration 000000000000" in reason


def test_no_store_no_release_and_no_model_files_end_with_4(own: tuple[Home, Path]) -> None:
    home, folder = own
    home.path("online", "flights.db").unlink()
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 4
    assert "materialises" in reason
    code, reason = refused(home, "--champion", "--allow-development-key")
    assert code == 4
    assert "released" in reason


def test_an_expired_model_that_was_released_serves_with_a_warning_and_a_metric(
    own: tuple[Home, Path],
) -> None:
    home, folder = own
    key, long_ago = dsse.signing_key(home), NOW - timedelta(days=200)
    (folder / "certificate.json").unlink()
    issued = certificate.issue(key, folder, predicate(FLIGHTS), timedelta(days=90), long_ago)
    arguments = ("--model-dir", str(folder), "--allow-development-key")
    code, reason = refused(home, *arguments)
    assert code == 3
    assert "expired" in reason
    stated = {"subject": issued.subject, "released_at": long_ago.isoformat()}
    path = certificate.release_path(home, "flights", issued.subject)
    write_statement(path, key, certificate.RELEASE_TYPE, issued.files, stated)
    port = free_port()
    process = start_server(home, "--port", str(port), *arguments)
    wait_ready(process, port)
    metrics, answer = ask(port, "/metrics").text, predict(port, FLIGHT)
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert answer.status == 200
    assert re.search(r"airworthy_certificate_expired\{.*\} 1\.0", metrics)
    assert "certificate expired" in [json.loads(line)["event"] for line in log.splitlines()]


def test_the_server_process_never_loads_torch_or_feast(running: Running) -> None:
    """Seen from outside: no library of theirs is mapped into the process."""
    maps = Path(f"/proc/{running.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    mapped = maps.read_text()
    assert "onnxruntime" in mapped
    for name in ("/torch/", "/feast/", "/duckdb", "/sklearn/", "/polars/"):
        assert name not in mapped, name


def test_concurrent_callers_are_all_recorded(running: Running) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        answers: list[Response] = list(pool.map(lambda _: predict(running.port, FLIGHT), range(64)))
    ids = {a.body["predictions"][0]["prediction_id"] for a in answers}
    assert len(ids) == 64
    assert all(find(running.home, i) is not None for i in ids)
