"""An experiment in the request path, over real sockets: both arms in one server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from experiment_helpers import experiment
from serving_helpers import (
    FLIGHT,
    NOW,
    Response,
    Running,
    ask,
    certified_model,
    flights_store,
    free_port,
    start_server,
    wait_ready,
)

from feature_repo.errors import DeclarationError
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving import exposures
from serving.arguments import without_arguments
from serving.assignment import assign
from serving.enrolment import Enrolment
from serving.experiment import begin

FLIGHTS = get_use_case("flights")
TOKEN = "a-token-of-the-repository"
HOUR = timedelta(hours=1)
DECLARED = experiment(start=(NOW - HOUR).isoformat(), end=(NOW + HOUR).isoformat())


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    """A server with both arms' versions, the control the default; its gRPC port."""
    home = Home(root=tmp_path_factory.mktemp("arms"))
    folder, _ = certified_model(home, FLIGHTS, version="1.0.0")
    certified_model(home, FLIGHTS, threshold=0.4, version="1.1.0")
    flights_store(home)
    begin(home, DECLARED)
    port, grpc_port = free_port(), free_port()
    process = start_server(
        home, "--model-dir", str(folder), "--port", str(port), "--grpc-port", str(grpc_port),
        "--experiment", DECLARED.name, "--allow-development-key", AIRWORTHY_REPOSITORY_TOKEN=TOKEN,
    )  # fmt: skip
    wait_ready(process, port)
    load = json.dumps({"parameters": {"version": "1.1.0"}}).encode()
    path = "/v2/repository/models/flights/load"
    assert ask(port, path, load, authorization=f"Bearer {TOKEN}").status == 200
    yield Running(home=home, folder=folder, port=port, process=process), grpc_port
    process.kill()
    process.communicate()


def request(running: Running, unit: str | None, arm: str = "", path: str = "") -> Response:
    body = json.dumps({"instances": [FLIGHT | {"tailnum": unit}]}).encode()
    told = {"x_airworthy_arm": arm} if arm else {}
    return ask(running.port, path or "/v1/models/flights:predict", body, **told)


def version(answer: Response) -> str:
    assert answer.status == 200, answer.text
    return str(answer.body["version"])


def count(running: Running, part: str) -> float:
    said = ask(running.port, "/metrics").text.splitlines()
    name = f'airworthy_experiment_requests_total{{experiment="{DECLARED.name}",part="{part}"}} '
    return next(float(line.removeprefix(name)) for line in said if line.startswith(name))


def exposed(running: Running) -> dict[str, str]:
    table = exposures.read(running.home, DECLARED.name)
    return dict(zip(table["unit"].to_pylist(), table["arm"].to_pylist(), strict=True))


def test_each_unit_meets_its_arm_and_is_exposed_once(arms: tuple[Running, int]) -> None:
    running, _ = arms
    units = [f"N{number}" for number in range(30)]
    assigned = {unit: assign(DECLARED, unit) for unit in units}
    with ThreadPoolExecutor(8) as pool:  # each unit several times at once
        answers = list(pool.map(lambda unit: request(running, unit, assigned[unit]), units * 4))
    versions = {DECLARED.arm(arm).version for arm in assigned.values()}
    assert versions == {"1.0.0", "1.1.0"}
    for unit, answer in zip(units * 4, answers, strict=True):
        assert version(answer) == DECLARED.arm(assigned[unit]).version
    told = exposed(running)
    assert {unit: told[unit] for unit in units} == assigned
    lines = [
        json.loads(line)["unit"]
        for path in running.home.root.glob("experiments/*/exposures/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted(set(lines)) == sorted(lines)


def test_without_the_header_a_request_is_outside(arms: tuple[Running, int]) -> None:
    running, _ = arms
    before = count(running, "outside")
    unit = next(f"T{n}" for n in range(99) if assign(DECLARED, f"T{n}") == "treatment")
    assert version(request(running, unit)) == "1.0.0"
    assert unit not in exposed(running)
    assert count(running, "outside") == before + 1


@pytest.mark.parametrize(
    ("unit", "arm", "path", "status", "said"),
    [
        ("T1", "other", "", 421, "assigns to"),
        ("T1", "neither", "", 421, "not 'neither'"),
        (None, "control", "", 422, "the request has no tailnum"),
        ("T1", "own", "/v2/models/flights/versions/{}/infer", 421, "route its requests"),
    ],
)
def test_what_is_misdirected_is_refused_and_counted(
    arms: tuple[Running, int], unit: str | None, arm: str, path: str, status: int, said: str
) -> None:
    running, _ = arms
    own = assign(DECLARED, "T1")
    other = next(a for a in DECLARED.arms if a.name != own)
    named = {"own": own, "other": other.name}.get(arm, arm)
    before = count(running, "misdirected")
    if path:
        inputs = [
            {"name": k, "datatype": "BYTES" if isinstance(v, str) else "FP64", "shape": [1],
             "data": [v]}
            for k, v in (FLIGHT | {"tailnum": unit}).items()
        ]  # fmt: skip
        body = json.dumps({"inputs": inputs}).encode()
        answer = ask(running.port, path.format(other.version), body, x_airworthy_arm=named)
    else:
        answer = request(running, unit, named)
    assert answer.status == status, answer.text
    assert said in answer.body["error"]["message"]
    assert count(running, "misdirected") == before + 1
    assert "T1" not in exposed(running)


def test_a_vector_tells_no_unit(arms: tuple[Running, int]) -> None:
    running, _ = arms
    numeric = [2.0] * len(input_columns(FLIGHTS).numeric)
    vector = {"numeric": numeric, "categorical": ["UA", "EWR", "SFO", "10", "1"]}
    body = json.dumps({"instances": [vector]}).encode()
    answer = ask(running.port, "/v1/models/flights:predict", body, x_airworthy_arm="control")
    assert answer.status == 422
    assert "does not tell tailnum" in answer.text


def test_grpc_takes_part_too(arms: tuple[Running, int]) -> None:
    running, port = arms
    unit = next(f"G{n}" for n in range(99) if assign(DECLARED, f"G{n}") == "treatment")

    def asked() -> Any:
        from kserve import InferInput, InferRequest

        inputs = [
            InferInput(k, [1], "FP64" if isinstance(v, int) else "BYTES", data=[v])
            for k, v in (FLIGHT | {"tailnum": unit}).items()
        ]
        return InferRequest(model_name="flights", infer_inputs=inputs)

    async def call() -> Any:
        with without_arguments():
            from kserve import InferenceGRPCClient
        client = InferenceGRPCClient(f"127.0.0.1:{port}")
        answer = await client.infer(asked(), headers=[("x-airworthy-arm", "treatment")])
        await client.close()
        return answer

    assert asyncio.run(call()).model_version == "1.1.0"
    assert exposed(running)[unit] == "treatment"


def test_an_experiment_is_of_texts_that_requests_have(tmp_path: Any) -> None:
    home = Home(root=tmp_path)
    with pytest.raises(DeclarationError, match="has begun"):
        Enrolment(home, FLIGHTS, DECLARED.name)
    begin(home, experiment(unit=["passenger"]))
    with pytest.raises(DeclarationError, match="assigns by passenger"):
        Enrolment(home, FLIGHTS, "flights-1-1")
