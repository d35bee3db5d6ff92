"""One server process for all tests that only ask it; one certified model for each that harms it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificate_helpers import Made, pem_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from release_helpers import FLIGHTS, Ready, training_set, views
from serving_helpers import (
    Running,
    certified_model,
    flights_store,
    free_port,
    start_server,
    wait_ready,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import dsse


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a tiny flights model; put back what you change in its home."""
    home = Home(root=tmp_path_factory.mktemp("served"))
    folder, _ = certified_model(home, get_use_case("flights"), version="1.2.3")
    flights_store(home)
    port, grpc_port = free_port(), free_port()
    process = start_server(
        home, "--model-dir", str(folder), "--port", str(port), "--grpc-port", str(grpc_port),
        "--allow-development-key",
    )  # fmt: skip
    wait_ready(process, port)
    assert process.stderr is not None
    # Each refusal is a log line: a pipe that nobody reads would fill, and stop the server.
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield Running(home=home, folder=folder, port=port, process=process, grpc_port=grpc_port)
    process.kill()
    process.wait()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A certified model and the environment of an installation with its own key."""
    home, trusted = Home(root=tmp_path / "home"), tmp_path / "trusted"
    trusted.mkdir()
    private = Ed25519PrivateKey.generate()
    (tmp_path / "signing.pem").write_bytes(pem_of(private))
    (trusted / "release-team.pem").write_bytes(dsse.public_pem(private.public_key()))
    monkeypatch.setenv("AIRWORTHY_SIGNING_KEY", str(tmp_path / "signing.pem"))
    monkeypatch.setenv("AIRWORTHY_TRUSTED_KEYS", str(trusted))
    monkeypatch.delenv("AIRWORTHY_ALLOW_DEVELOPMENT_KEY", raising=False)
    key = dsse.signing_key(home)
    folder, issued = certified_model(home, get_use_case("flights"), key)
    return Made(home=home, folder=folder, certificate=issued, key=key)


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """A certified model, its online store and training set, with a development key."""
    for name in ("SIGNING_KEY", "TRUSTED_KEYS", "ALLOW_DEVELOPMENT_KEY"):
        monkeypatch.delenv(f"AIRWORTHY_{name}", raising=False)
    home = Home(root=tmp_path)
    folder, _ = certified_model(home, FLIGHTS, version="1.0.0")
    flights_store(home)
    return Ready(home=home, folder=folder, views=views(home), table=training_set(home))
