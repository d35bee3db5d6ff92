"""Limits of the server: size, compression, time, numbers, tokens; asked over a socket."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from serving_helpers import (
    FLIGHT,
    Running,
    ask,
    certified_model,
    flights_store,
    free_port,
    predict,
    start_server,
    wait_ready,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case

PREDICT = "/v1/models/flights:predict"
GOOD = json.dumps({"instances": [FLIGHT]}).encode()
TOKEN = "callers-token"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that takes three requests at once, two of each caller with a token."""
    home, port = Home(root=tmp_path_factory.mktemp("guarded")), free_port()
    folder, _ = certified_model(home, get_use_case("flights"))
    flights_store(home)
    process = start_server(
        home, "--model-dir", str(folder), "--port", str(port), "--allow-development-key",
        "--concurrency", "3", "--caller-concurrency", "2", "--record", "0.5", "--log-share", "0.25",
        AIRWORTHY_PREDICTION_TOKEN=f"{TOKEN}, another",
    )  # fmt: skip
    wait_ready(process, port)
    yield port
    process.kill()
    process.communicate()


def begun(port: int, promised: int = 100, token: str = "") -> socket.socket:
    """A connection with a POST whose body does not come."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {promised}\r\n"
    head += f"authorization: Bearer {token}\r\n" if token else ""
    connection.sendall(f"{head}\r\n".encode())
    return connection


def refused(port: int, token: str = "") -> tuple[int, str]:
    """Status and headers of the answer to a good request."""
    with begun(port, len(GOOD), token) as connection:
        connection.sendall(GOOD)
        head = connection.recv(65536).decode().lower()
        return int(head.split()[1]), head


def test_gzip_and_charsets_are_taken(running: Running) -> None:
    answer = ask(running.port, PREDICT, gzip.compress(GOOD), content_encoding="gzip")
    assert answer.status == 200, answer.text
    json_type = "application/json; charset=UTF-8"
    assert ask(running.port, PREDICT, GOOD, content_type=json_type).status == 200


def test_a_caller_past_its_share_and_a_full_server_say_when_to_come_again(guarded: int) -> None:
    """Callers are told apart by the tokens they were given; a token made up is no caller."""
    with ExitStack() as stack:
        for token in ("", "made up"):
            stack.enter_context(begun(guarded, token=token))
        time.sleep(0.2)
        status, head = refused(guarded, "made up too")
        assert (status, "retry-after: 1" in head) == (429, True)
        assert refused(guarded, TOKEN)[0] == 200
        stack.enter_context(begun(guarded, token=TOKEN))
        time.sleep(0.2)
        status, head = refused(guarded, "another")
        assert (status, "retry-after: 1" in head) == (503, True)
        assert ask(guarded, "/v2/health/live").status == 200
    time.sleep(0.2)  # callers that hang up are no longer counted
    assert [refused(guarded, TOKEN)[0] for _ in range(3)] == [200] * 3


def test_who_has_no_token_is_not_answered(guarded: int) -> None:
    assert predict(guarded, FLIGHT).status == 401
    assert ask(guarded, PREDICT, GOOD, authorization="Bearer other").status == 401
    assert ask(guarded, PREDICT, GOOD, authorization=f"Bearer {TOKEN}").status == 200
    assert ask(guarded, "/v2/models/flights/ready").status == 200


def test_a_body_that_does_not_come_is_given_up(running: Running) -> None:
    """Ten seconds are allowed; the connection ends, and others are answered meanwhile."""
    with begun(running.port) as slow:
        slow.sendall(b'{"inst')
        assert predict(running.port, FLIGHT).status == 200
        head = slow.recv(65536).decode()
        assert head.startswith("HTTP/1.1 408 ")
        assert slow.recv(1) == b""


def test_requests_in_one_go_are_answered_in_order(running: Running) -> None:
    """HTTP pipelining: POSTs, which wait for their records, and a GET between them."""

    def request(body: bytes) -> bytes:
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    get = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"
    last = request(GOOD).replace(b"host: x", b"connection: close")
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(request(GOOD) + request(b"{}") + get + last)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"400", b"200", b"200"]
    assert received.count(b'"prediction_id"') == 2


def test_a_client_that_waits_for_leave_gets_it(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        head = (
            f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            f"content-length: {len(GOOD)}\r\nconnection: close\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(GOOD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_metrics_tell_requests_phases_ages_and_records(guarded: int) -> None:
    assert predict(guarded, FLIGHT).status == 401
    for _ in range(20):
        ask(guarded, PREDICT, GOOD, authorization=f"Bearer {TOKEN}")
    text = ask(guarded, "/metrics").text
    told = {line.partition("{")[0] for line in text.splitlines() if "{" in line}
    assert {
        "airworthy_requests_total", "airworthy_request_seconds_bucket", "airworthy_batch_size_sum",
        "airworthy_phase_seconds_count", "airworthy_score_bucket", "airworthy_predictions_total",
        "airworthy_feature_age_minutes_bucket", "airworthy_missing_views_total",
        "airworthy_certificate_info", "airworthy_prediction_log_total",
    } <= told  # fmt: skip
    assert 'code="401"' in text
    assert 'protocol="v1"' in text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    recorded = sum(
        float(v) for k, v in values.items()
        if k.startswith("airworthy_prediction_log_total") and "unsampled" in k
    )  # fmt: skip
    assert recorded > 0
    assert float(values["airworthy_open_requests"]) == 0.0
