"""The server does as its OpenAPI says: schemathesis makes requests from it, good and bad ones."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks
from serving_helpers import Running, ask

EXAMPLES = 300 if os.environ.get("AIRWORTHY_LONG_DRILLS") == "1" else 8
CONFORMANCE: list[Any] = [
    checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance,
]  # fmt: skip


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/v1/models/flights:predict", "/v2/models/flights/infer"])
def test_predictions_are_as_described(running: Running, path: str, mode: GenerationMode) -> None:
    """A prediction that is described may still be impossible or stale; one that is not is never
    answered."""
    schema = schemathesis.openapi.from_dict(ask(running.port, "/openapi.json").body)
    address = f"http://127.0.0.1:{running.port}"
    refused: list[Any] = [checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def ask_it(case: Any) -> None:
        answer = case.call(base_url=address)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        too_large = answer.status_code == 413  # a refusal too, which schemathesis does not list
        case.validate_response(answer, checks=CONFORMANCE if too_large else CONFORMANCE + refused)

    ask_it()


def test_places_are_as_described(running: Running) -> None:
    described = ask(running.port, "/openapi.json").body["paths"]
    for path, methods in described.items():
        assert ask(running.port, path, None if "get" in methods else b"{}").status in {200, 400}
