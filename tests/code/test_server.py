"""The server as a real process, asked over a socket."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import (
    FLIGHT,
    TICK,
    Response,
    Running,
    ask,
    flights_store,
    free_port,
    predict,
    start_server,
    wait_ready,
)

from feature_repo.registry import get_use_case
from serving import certificate
from serving.predictions import find
from serving.predictor import Predictor
from serving.recompute import recompute

FLIGHTS = get_use_case("flights")


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


def test_a_quoted_colon_is_a_colon(running: Running) -> None:
    """As clients send it that quote each part of a path."""
    quoted = ask(
        running.port, "/v1/models/flights%3Apredict", json.dumps({"instances": [FLIGHT]}).encode()
    )
    assert quoted.status == 200


def test_a_recorded_answer_gives_its_score_again(running: Running) -> None:
    """From the log alone: instants as text, an unknown aircraft, answers of one batch."""
    asked = [FLIGHT, {**FLIGHT, "tailnum": None}, {**FLIGHT, "distance": 100.0, "carrier": "B6"}]
    files = certificate.read(running.folder).files
    for said in predict(running.port, *asked).body["predictions"]:
        found = find(running.home, said["prediction_id"])
        assert found is not None
        again = recompute(FLIGHTS, running.folder, files, found)
        assert again == pytest.approx(said["probability"], abs=1e-7)


def test_v2_answers_the_same(running: Running) -> None:
    """Batches included: each row's ages and staleness are those of its V1 answer."""
    asked: list[dict[str, Any]] = [dict(FLIGHT), {**FLIGHT, "tailnum": "N0"}]
    kinds = dict.fromkeys(FLIGHT, "BYTES") | {"distance": "FP64"}
    tensors = [
        {"name": n, "datatype": kinds[n], "shape": [2], "data": [q[n] for q in asked]}
        for n in FLIGHT
    ]
    body = json.dumps({"id": "my-id", "inputs": tensors}).encode()
    answer = ask(running.port, "/v2/models/flights/infer", body)
    assert answer.status == 200
    assert answer.body["id"] == "my-id"
    outputs = {o["name"]: o["data"] for o in answer.body["outputs"]}
    expected = predict(running.port, *asked).body["predictions"]
    assert outputs["probability"] == pytest.approx([one["probability"] for one in expected])
    assert outputs["stale"] == [one["stale"] for one in expected] == [False, False]
    assert find(running.home, outputs["prediction_id"][1]) is not None
    told = answer.body["parameters"]
    assert all(isinstance(value, str) for value in told.values())
    assert told["tick"] == expected[0]["tick"]
    assert told["certificate"] == certificate.read(running.folder).id
    assert outputs["prediction_time"] == [one["prediction_time"] for one in expected]
    assert json.loads(told["missing"]) == [one["missing"] for one in expected]
    assert json.loads(told["ages_minutes"]) == [one["ages_minutes"] for one in expected]
    described = ask(running.port, "/v2/models/flights").body["outputs"]
    assert {o["name"]: o["datatype"] for o in described} == {
        o["name"]: o["datatype"] for o in answer.body["outputs"]
    }


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


def test_a_tick_within_the_stale_limit_is_answered_as_of_the_store(running: Running) -> None:
    answer = predict(running.port, {**FLIGHT, "prediction_time": "2013-11-05T14:49:59Z"})
    assert answer.status == 200
    assert answer.body["predictions"][0]["tick"] == "2013-11-05T14:00:00+00:00"


def test_a_replaced_store_is_read_without_a_restart(running: Running) -> None:
    later = TICK + timedelta(hours=1)
    asked = {**FLIGHT, "prediction_time": "2013-11-05T15:05:00Z"}
    (late,) = predict(running.port, asked).body["predictions"]
    assert (late["tick"], late["fallback"]) == (TICK.isoformat(), ["stale"])
    try:
        flights_store(running.home, later)
        assert predict(running.port, asked).body["predictions"][0]["tick"] == later.isoformat()
        assert predict(running.port, FLIGHT).status == 409
    finally:
        flights_store(running.home)
    assert predict(running.port, FLIGHT).status == 200


def test_an_answer_survives_kill_9_and_a_new_server_stops_at_sigterm(
    running: Running,
) -> None:
    """The record is on disk before the answer is sent."""
    home, folder = running.home, running.folder
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
