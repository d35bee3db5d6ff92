"""A server that answers from Redis, and a Redis that goes away and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis_server import redis_server
from serving_helpers import (
    FLIGHT,
    TICK,
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


def test_a_server_answers_from_redis_and_says_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, port = Home(root=tmp_path / "home"), free_port()
    folder, _ = certified_model(home, get_use_case("flights"))
    with redis_server(tmp_path) as url:
        monkeypatch.setenv("AIRWORTHY_ONLINE_STORE", url)
        flights_store(home)
        process = start_server(
            home, "--model-dir", str(folder), "--port", str(port), "--allow-development-key"
        )
        try:
            wait_ready(process, port)
            answer = predict(port, FLIGHT, FLIGHT)
            assert answer.status == 200
            assert [p["tick"] for p in answer.body["predictions"]] == [TICK.isoformat()] * 2
            assert answer.body["predictions"][0]["ages_minutes"]["origin_weather"] == 15.0
        except BaseException:
            process.kill()
            raise
    assert not (home.root / "online").exists()
    try:
        gone = predict(port, FLIGHT)
        assert gone.status == 503
        assert "start Redis" in gone.body["error"]["message"]
        assert ask(port, "/v2/health/ready").status == 503
        with redis_server(tmp_path):
            assert "absent or empty" in predict(port, FLIGHT).body["error"]["message"]
            flights_store(home)
            assert predict(port, FLIGHT).status == 200
            assert ask(port, "/v2/health/ready").status == 200
    finally:
        process.kill()
        process.communicate()
