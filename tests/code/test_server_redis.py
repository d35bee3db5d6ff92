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
        for _ in range(2):
            (gone,) = predict(port, FLIGHT).body["predictions"]
            assert gone["fallback"] == ["outage"]
        assert ask(port, "/v2/health/ready").status == 200
        with redis_server(tmp_path):
            (empty,) = predict(port, FLIGHT).body["predictions"]
            assert empty["fallback"] == ["outage"]
            flights_store(home)
            (back,) = predict(port, FLIGHT).body["predictions"]
            assert "fallback" not in back
            assert back["missing"] == []
    finally:
        process.kill()
        said = process.communicate()[1]
    assert said.count("answers without the feature store") == 1  # once, not once a request
    assert "start Redis" in said
