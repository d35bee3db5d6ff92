"""The fallback: it answers where stored features are not at hand, says so, and can be audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from judging_helpers import fresh_home, state_of
from serving_helpers import (
    FLIGHT,
    TICK,
    Running,
    ask,
    certified_model,
    find_recorded,
    predict,
    write_store,
)
from toy import TOY, toy_registered, toy_training_set

from feature_repo.contract import GateRule
from feature_repo.errors import DeclarationError, RequestError, StateError
from feature_repo.fallback import fallback_reasons, request_only, without_fallback
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.registry import USE_CASES, get_use_case
from feature_repo.tables import Table
from serving import certificate
from serving.artifact import read_model
from serving.instances import InstanceForm, columns_of
from serving.loading import load_service
from serving.metrics import Metrics
from serving.online import OnlineStore
from serving.outcomes import pairs
from serving.predictor import Predictor, fallback_predictor
from serving.recompute import recompute
from serving.served import traffic_at
from serving.service import Service
from serving.skew import _comparable
from tasks.audit import _read_from
from tasks.card_text import _fallback
from tasks.evaluate import evaluate
from tasks.export import export_model
from tasks.fallback import fit_all, save_all
from tasks.folders import open_folder, store_folder
from tasks.gate import judge
from tasks.ledger import own_trust
from tasks.types import Folder, TrainingConfig

FLIGHTS = get_use_case("flights")
LATE = FLIGHT | {"prediction_time": "2013-11-05T14:55:00Z"}
RULE = GateRule(
    name="fallback", metric="fallback.versus_constant.auc.low", operator=">=", limit=0.0
)
STANDS_IN = replace(TOY, gate=(*TOY.gate, RULE), outage_policy="fallback")


@contextmanager
def no_store(home: Home) -> Iterator[None]:
    """The online store's file is away."""
    store = home.path("online", f"{FLIGHTS.service}.db")
    away = store.rename(store.with_suffix(".away"))
    try:
        yield
    finally:
        away.rename(store)


def alone(folder: Path, *asked: dict[str, Any]) -> Any:
    """What the fallback says offline."""
    form = InstanceForm(FLIGHTS)
    columns = columns_of(FLIGHTS, [form.instance(0, one, TICK) for one in asked])
    columns["tick"] = np.zeros(len(asked), "datetime64[s]")  # it reads none
    return fallback_predictor(FLIGHTS, folder).predict(columns)


def counted(port: int, metric: str, *labels: str) -> float:
    """A metric's value; 0 where it is not there yet."""
    for line in ask(port, "/metrics").text.splitlines():
        if line.startswith(f"{metric}{{") and all(label in line for label in labels):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def test_a_stale_instance_falls_back_and_its_neighbour_does_not(running: Running) -> None:
    """An aircraft without history is neither stale nor missing: the model knows such flights."""
    port, labels = running.port, ('policy="fallback"', 'reason="stale"')
    before, failed = counted(port, "airworthy_policy_total", *labels), failures(port)
    fresh = FLIGHT | {"tailnum": "N0"}
    said = predict(port, FLIGHT, LATE, fresh).body["predictions"]
    assert [one["fallback"] for one in said] == [[], ["stale"], []]
    assert [one["stale"] for one in said] == [False, True, False]
    single = [predict(port, one).body["predictions"][0] for one in (FLIGHT, fresh)]
    assert not any("fallback" in one for one in single)
    assert [said[i]["probability"] for i in (0, 2)] == pytest.approx(
        [one["probability"] for one in single]
    )
    assert said[1]["probability"] == pytest.approx(alone(running.folder, LATE)[0])
    assert said[1]["probability"] != pytest.approx(said[0]["probability"])
    assert counted(port, "airworthy_policy_total", *labels) == before + 1
    assert failures(port) == failed + 1  # of its arm in a release


def failures(port: int) -> int:
    return traffic_at(f"http://127.0.0.1:{port}", 1.0).failed


def test_without_its_store_the_server_answers_from_the_request(running: Running) -> None:
    """In each protocol, ready as before, counted; and the record gives the score again."""
    port, reason = running.port, ('policy="fallback"', 'reason="outage"')
    before = counted(port, "airworthy_policy_total", *reason)
    kinds = dict.fromkeys(FLIGHT, "BYTES") | {"distance": "FP64"}
    tensors = [
        {"name": n, "datatype": kinds[n], "shape": [1], "data": [v]} for n, v in FLIGHT.items()
    ]
    with no_store(running.home):
        assert ask(port, "/v2/health/ready").status == 200
        assert ask(port, "/v2/models/flights/ready").status == 200
        (said,) = predict(port, FLIGHT).body["predictions"]
        body = json.dumps({"inputs": tensors}).encode()
        told = ask(port, "/v2/models/flights/infer", body).body
    assert said["fallback"] == ["outage"]
    assert said["missing"] == [view.name for view in FLIGHTS.views]
    assert said["probability"] == pytest.approx(alone(running.folder, FLIGHT)[0])
    assert json.loads(told["parameters"]["fallback"]) == [["outage"]]
    assert told["outputs"][0]["data"] == pytest.approx([said["probability"]])
    assert counted(port, "airworthy_policy_total", *reason) == before + 2
    assert "fallback" not in predict(port, FLIGHT).body["predictions"][0]

    found = find_recorded(running.home, said["prediction_id"])
    assert found.fallback == "outage"
    files = certificate.read(running.folder).files
    assert recompute(FLIGHTS, running.folder, files, found) == pytest.approx(said["probability"])
    claimed = replace(found, fallback="")
    assert recompute(FLIGHTS, running.folder, files, claimed) != pytest.approx(found.score)
    assert _read_from(found) == "the request alone, by the model's fallback (outage)"
    assert not _comparable(running.home, FLIGHTS, found, {found.subject: True}, found.at)


def test_a_missing_entity_falls_back_where_that_is_declared(tmp_path: Path) -> None:
    """The reasons of an instance are told together."""
    case = replace(FLIGHTS, missing_policy="fallback")
    home = Home(root=tmp_path)
    folder, issued = certified_model(home, case)
    metrics = Metrics(None).model("flights", "1", [v.name for v in case.views])
    service = Service(
        use_case=case, predictor=Predictor(case, folder), recorder=None, metrics=metrics,
        store=OnlineStore(write_store(home, case, {}), case), certificate=issued, version="1",
        threshold=0.5, fallback=fallback_predictor(case, folder),
    )  # fmt: skip
    form = InstanceForm(case)
    answers = service.ask([form.instance(0, one, TICK) for one in (FLIGHT, LATE)])
    assert answers.fallback == [["missing"], ["stale", "missing"]]
    assert answers.answered.fallback == ["missing", "stale,missing"]
    assert metrics.policy == {("stale", "fallback"): 1, ("missing", "fallback"): 2}
    service.close()


def test_a_refusal_that_is_declared_stays_one(tmp_path: Path) -> None:
    """Stale and out: 503, counted, and without its store the server is not ready."""
    case, home = without_fallback(FLIGHTS), Home(root=tmp_path)
    folder, issued = certified_model(home, case)
    metrics = Metrics(None).model("flights", "1", [v.name for v in case.views])
    rows = write_store(home, case, {})
    service = Service(
        use_case=case, predictor=Predictor(case, folder), recorder=None, metrics=metrics,
        store=OnlineStore(rows, case), certificate=issued, version="1", threshold=0.5,
    )  # fmt: skip
    form = InstanceForm(case)
    with pytest.raises(RequestError, match=r"instances\[0\].prediction_time") as refused:
        service.ask([form.instance(0, LATE, TICK)])
    assert refused.value.status == 503
    assert service.ready()
    rows.drop()
    assert not service.ready()
    with pytest.raises(StateError, match="online store"):
        service.ask([form.instance(0, FLIGHT, TICK)])
    assert metrics.policy == {("stale", "refuse"): 1, ("outage", "refuse"): 1}
    service.close()


def test_a_model_without_the_fallback_that_is_declared_is_not_loaded(tmp_path: Path) -> None:
    """One of a program that declared none, say; certified as it is."""
    home, before = Home(root=tmp_path), without_fallback(FLIGHTS)
    folder, _ = certified_model(home, before)
    write_store(home, FLIGHTS, {})
    trust = own_trust(home)
    load_service(home, before, folder, trust=trust).close()
    with pytest.raises(StateError, match=r"fallback/model.json is missing"):
        load_service(home, FLIGHTS, folder, trust=trust)


def test_answers_of_a_fallback_are_in_no_pair() -> None:
    """They would say nothing of the two models."""
    rows = [(role, row, fell) for role in ("champion", "shadow") for row, fell in enumerate("ab")]
    table = pa.Table.from_pylist(
        [
            {"role": role, "row": row, "request_id": "r", "id": f"{role}{row}", "score": 0.5,
             "loss": 0.1, "entity": "e", "prediction_time": 1, "event_time": 1, "label": 1.0,
             "available_at": 1, "fallback": "stale" if (role, fell) == ("shadow", "b") else ""}
            for role, row, fell in rows
        ]
    )  # fmt: skip
    assert pairs(table)["row"].to_pylist() == [0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Table, Folder]]:
    """A toy model and its fallback, as the pipeline trains and exports them."""
    with toy_registered():
        USE_CASES["toy"] = STANDS_IN
        home = fresh_home(tmp_path_factory.mktemp("fallback") / "home")
        table = toy_training_set(home)
        config = TrainingConfig(epochs=4, batch_size=256, width=16, layers=1, dropout=0.0)
        fitted = fit_all(STANDS_IN, table, config, print)
        weights = store_folder(home, "trained", lambda folder: save_all(*fitted, config, folder))
        exported = export_model(
            state=state_of(home), use_case="toy", declaration="", trained=weights
        )
        yield home, table, exported.model


def test_the_fallback_is_trained_exported_and_judged(
    trained: tuple[Home, Table, Folder],
) -> None:
    """On the same rows, without the stored features; the gate's rule reads its figures."""
    home, table, model = trained
    state, folder = state_of(home), open_folder(model)
    described = read_model(folder / "fallback")
    inputs = input_columns(request_only(STANDS_IN))
    assert (described.numeric, described.categorical) == (inputs.numeric, inputs.categorical)
    assert described.numeric == ("distance",)
    said: dict[str, Any] = {"state": state, "use_case": "toy", "declaration": ""}
    evaluated = evaluate(**said, model=model, training_set=table, champion="")
    report = json.loads((open_folder(evaluated.evaluation) / "evaluation.json").read_text())
    told, auc = report["fallback"], report["test"]["auc"]
    assert 0.55 < told["test"]["auc"] < auc
    assert told["versus_constant"]["auc"]["low"] > 0
    (verdict,) = [
        v for v in judge(**said, evaluation=evaluated.evaluation).verdicts if v.rule == "fallback"
    ]
    assert verdict.passed
    assert verdict.value == told["versus_constant"]["auc"]["low"]
    (card,) = _fallback(STANDS_IN, report)
    assert "(declared for: outage)" in card
    assert "It reads `distance`, `origin`, `carrier`" in card


def test_where_none_is_declared_none_is_trained(trained: tuple[Home, Table, Folder]) -> None:
    config = TrainingConfig(epochs=1, width=4, layers=1)
    assert fit_all(TOY, trained[1], config, print)[1] is None


def test_a_fallback_needs_a_number_to_read_and_a_rule() -> None:
    assert fallback_reasons(TOY) == frozenset()
    assert fallback_reasons(FLIGHTS) == {"stale", "outage"}
    with pytest.raises(DeclarationError, match="no rule of the gate judges"):
        replace(TOY, stale_policy="fallback")
    fields = tuple(f for f in TOY.fields if f.dtype == "string")
    with pytest.raises(DeclarationError, match="no request field or derived input is a number"):
        replace(STANDS_IN, fields=fields)
