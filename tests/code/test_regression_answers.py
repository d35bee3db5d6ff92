"""A regression's answers: a value with its unit, no decision; asked of the ASGI layer itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import TICK, certified_model, write_store

from feature_repo.contract import UseCase
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving.fastpath import FastPath
from serving.gateway import Gateway, Limits, Tokens
from serving.metrics import Metrics
from serving.models import Models
from serving.online import OnlineStore
from serving.predictions import find
from serving.predictor import Predictor
from serving.recorder import Recorder
from serving.segments import PredictionLog
from serving.service import Service

WEATHER = get_use_case("weather")
HOUR = timedelta(hours=1)


def ask(layer: FastPath, path: str, document: Any) -> tuple[int, Any]:
    """One POST through the layer, its body in two parts."""
    body, sent = json.dumps(document).encode(), []
    parts = [(body[:5], True), (body[5:], False)]

    async def receive() -> MutableMapping[str, Any]:
        part, more = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asyncio.run(layer(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def layer(tmp_path: Path) -> FastPath:
    """The layer over a weather model with an empty store."""
    return layer_of(Home(root=tmp_path), WEATHER)


def layer_of(home: Home, use_case: UseCase) -> FastPath:
    """The layer over weather's model in a fresh home, declared as ``use_case``."""
    folder, issued = certified_model(home, WEATHER)
    metrics = Metrics(None)
    service = Service(
        use_case=use_case,
        predictor=Predictor(WEATHER, folder),
        store=OnlineStore(write_store(home, WEATHER, {}), WEATHER),
        recorder=Recorder(PredictionLog(home, use_case)),
        metrics=metrics.model("weather", "1.0.0", [v.name for v in WEATHER.views]),
        certificate=issued,
        version="1.0.0",
        threshold=0.5,
    )
    models = Models(lambda *_: service)
    models.put(service, default=True)

    async def unchanged(*_: str) -> None:
        raise AssertionError("nothing is loaded here")

    async def app(*_: Any) -> None:
        raise AssertionError("nothing falls through here")

    return FastPath(app, Gateway(models, metrics, Limits(), Tokens(), unchanged))


def question(later: timedelta = timedelta(0)) -> dict[str, Any]:
    """A value for each field that weather declares, asked ``later`` than the store's tick."""
    samples = {"string": "JFK", "number": 1.0, "timestamp": (TICK + 4 * HOUR).isoformat()}
    asked: dict[str, Any] = {f.name: samples[f.dtype] for f in WEATHER.fields}
    at = TICK + WEATHER.lag + timedelta(seconds=1) + later
    return asked | {"prediction_time": at.isoformat()}


def tensors_of(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Questions as V2 tensors; weather asks for strings and instants only."""
    return [
        {"name": n, "datatype": "BYTES", "shape": [len(asked)], "data": [q[n] for q in asked]}
        for n in asked[0]
    ]


def test_a_value_is_answered_with_its_unit_and_recorded(layer: FastPath, tmp_path: Path) -> None:
    status, body = ask(layer, "/v1/models/weather:predict", {"instances": [question()]})
    assert status == 200, body
    (one,) = body["predictions"]
    assert one["unit"] == WEATHER.unit
    assert "probability" not in one
    assert "decision" not in one
    assert one["missing"] == [view.name for view in WEATHER.views]
    recorded = find(Home(root=tmp_path), one["prediction_id"])
    assert recorded is not None
    assert recorded.score == one["value"]


def test_v2_names_the_output_value(layer: FastPath) -> None:
    tensors = tensors_of([question()])
    status, body = ask(layer, "/v2/models/weather/infer", {"inputs": tensors})
    assert status == 200, body
    assert [o["name"] for o in body["outputs"]] == [
        "value", "prediction_id", "prediction_time", "stale",
    ]  # fmt: skip
    assert body["parameters"]["unit"] == WEATHER.unit
    assert body["id"] == body["outputs"][1]["data"][0]


def test_both_protocols_tell_which_answers_are_stale(tmp_path: Path) -> None:
    """Where the policy is to serve; a row that is asked in time is not stale."""
    layer = layer_of(Home(root=tmp_path), replace(WEATHER, stale_policy="serve"))
    asked = [question(), question(2 * HOUR)]
    status, body = ask(layer, "/v1/models/weather:predict", {"instances": asked})
    assert status == 200, body
    assert [one["stale"] for one in body["predictions"]] == [False, True]
    tensors = tensors_of(asked)
    status, body = ask(layer, "/v2/models/weather/infer", {"inputs": tensors})
    assert status == 200, body
    assert {o["name"]: o["data"] for o in body["outputs"]}["stale"] == [False, True]
    ages = json.loads(body["parameters"]["ages_minutes"])
    assert ages == [dict.fromkeys(view.name for view in WEATHER.views)] * 2
