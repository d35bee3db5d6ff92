"""Bad input is refused by name, over real sockets; the server goes on, with bounded memory."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest
from bad_http import HEADERS, PLACES
from bad_inputs import BODIES, FIELDS, PREDICT, VECTORS, request
from bad_tensors import BINARY, TENSORS
from serving_helpers import FLIGHT, Running

BAD = {**BODIES, **FIELDS, **VECTORS, **TENSORS, **BINARY, **HEADERS, **PLACES}
GOOD = request("POST", PREDICT, json.dumps({"instances": [FLIGHT]}).encode())


def sent(port: int, raw: bytes) -> tuple[int, str]:
    """Status and text of the first answer to raw bytes."""
    with connected(port) as connection:
        connection.sendall(raw)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(running: Running, name: str) -> None:
    bad = BAD[name]
    status, text = sent(running.port, bad.raw)
    assert status == bad.status, text[:1000]
    error = json.loads(text)["error"]
    assert set(error) == {"field", "message"}
    assert error["field"] == bad.field, text
    assert error["message"]
    assert "Traceback" not in text
    assert 'File "' not in text
    status, text = sent(running.port, GOOD)
    assert status == 200
    assert json.loads(text)["predictions"][0]["probability"] > 0


def test_what_came_before_the_garbage_is_answered_first(running: Running) -> None:
    """Pipelined: a prediction, which waits for its record, and then what is no HTTP."""
    with connected(running.port) as connection:
        connection.sendall(GOOD + b"\0garbage\r\n\r\n" + GOOD)
        received = b""
        while part := connection.recv(65536):
            received += part
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200", b"400"]


def test_memory_is_bounded_by_what_is_refused(running: Running) -> None:
    """Bombs, bodies and trailers without end, and callers that never read their answers."""
    batch = request("POST", PREDICT, json.dumps({"instances": [FLIGHT] * 256}).encode())
    endless = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: "

    def round_of_all() -> None:
        for name in ("gzip bomb", "too large a body", "deep lists", "endless header", "too many"):
            sent(running.port, BAD[name].raw)
        with suppress(OSError), connected(running.port) as connection:
            connection.sendall(endless + b"x" * 2**27)
        with suppress(OSError), connected(running.port) as connection:
            connection.settimeout(0.5)
            connection.sendall(batch * 200)

    round_of_all()
    before = resident(running.process.pid)
    for _ in range(3):
        round_of_all()
    assert sent(running.port, GOOD)[0] == 200
    assert resident(running.process.pid) - before < 32 * 2**20


def connected(port: int) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
