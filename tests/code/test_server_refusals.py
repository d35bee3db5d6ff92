"""A server that must not serve: exit code, one line that says why, and no open port."""

from __future__ import annotations

import json
import re
import shutil
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from serving_helpers import (
    FLIGHT,
    NOW,
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
from serving import certificate, dsse, revocations
from serving.ledger import Revocation
from serving.releases import write_current
from serving.server import main
from serving.statements import write_statement

FLIGHTS = get_use_case("flights")


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
    revoked = Revocation(id=certificate.read(folder).id, content="", reason="test")
    revocations.complete(home, dsse.signing_key(home), [revoked], NOW)
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


def test_no_store_and_no_release_end_with_4(own: tuple[Home, Path]) -> None:
    home, folder = own
    home.path("online", f"{get_use_case('flights').service}.db").unlink()
    code, reason = refused(home, "--model-dir", str(folder), "--allow-development-key")
    assert code == 4
    assert "materialises" in reason
    code, reason = refused(home, "--champion", "--allow-development-key")
    assert code == 4
    assert "champion" in reason


def test_no_model_files_end_with_3(own: tuple[Home, Path]) -> None:
    """One that the certificate names, then the folder that the champion's pointer names."""
    home, folder = own
    write_current(home, "flights", folder.name, folder, "1.0.0")
    (folder / "model.onnx").unlink()
    code, reason = refused(home, "--champion", "--allow-development-key")
    assert code == 3
    assert "missing: model.onnx" in reason
    shutil.rmtree(folder)
    code, reason = refused(home, "--champion", "--allow-development-key")
    assert code == 3
    assert f"{folder / 'certificate.json'} does not exist" in reason


def test_a_shortened_argument_is_none(own: tuple[Home, Path]) -> None:
    """A manifest's check looks for the whole word."""
    home, folder = own
    process = start_server(home, "--model-dir", str(folder), "--allow-dev")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "unrecognized arguments: --allow-dev" in log


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


def test_the_version_is_the_certificate_s_whatever_the_pointer_says(
    own: tuple[Home, Path],
) -> None:
    home, _ = own
    folder = home.path("models", "flights", "named")
    write_model(folder, FLIGHTS, threshold=0.4)
    said = predicate(FLIGHTS, version="1.2.3")
    certificate.issue(dsse.signing_key(home), folder, said, timedelta(days=1), NOW)
    write_current(home, "flights", folder.name, folder, "9.9.9")
    port = free_port()
    process = start_server(home, "--champion", "--port", str(port), "--allow-development-key")
    wait_ready(process, port)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert '"version": "1.2.3"' in log
    assert "9.9.9" not in log


def test_a_port_in_use_and_an_unknown_use_case_are_named(own: tuple[Home, Path]) -> None:
    home, folder = own
    arguments = ("--model-dir", str(folder), "--allow-development-key")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start_server(home, *arguments, "--port", port)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 4
    assert f"port {port}" in log
    code, reason = refused(home, *arguments, "--use-case", "trains")
    assert code == 2
    assert "no use case 'trains'" in reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--concurrency", "0"], "'0' is not a whole number from 1 on"),
        (["--caller-concurrency", "-1"], "'-1' is not a whole number from 0 on"),
        (["--log-share", "7"], "'7' is not a share of 0 to 1"),
        (["--record", "most"], "'most' is not a share of 0 to 1"),
        (["--copy-store", "-4"], "'-4' is not a number of seconds"),
        (["--drain-seconds", "nan"], "'nan' is not a number of seconds"),
    ],
)
def test_an_impossible_argument_ends_with_2_and_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--use-case", "flights", "--champion", *arguments])
    assert ended.value.code == 2
    assert f"argument {arguments[0]}: {said}" in capsys.readouterr().err
