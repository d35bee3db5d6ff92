"""A small use case, its training set and a tiny ONNX model, made without training."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from feature_repo.contract import (
    Entity,
    EventLog,
    FeatureSpec,
    GateRule,
    RawTable,
    RequestField,
    UseCase,
)
from feature_repo.home import Home
from feature_repo.inputs import input_columns, model_inputs
from feature_repo.registry import USE_CASES
from feature_repo.tables import Table, write_table
from serving.preprocess import Preprocessor
from tasks.folders import store_folder
from tasks.rows import labelled_rows
from tasks.types import Folder

ORIGIN = Entity(name="origin", keys=("origin",))
DEPARTURES = EventLog(
    name="departures",
    sql="SELECT origin, carrier, delay, flights, at, event_timestamp, available_at FROM flights",
    tie_break=("carrier",),
    ttl=timedelta(hours=24),
    fresh_within=timedelta(hours=24),
)
TOY = UseCase(
    name="toy",
    description="Whether a toy flight arrives late.",
    owner="the test suite",
    task="binary",
    label="late",
    unit="probability",
    intended_use="Tests only.",
    limitations="It knows two airports.",
    tables=(RawTable(name="flights", key=("flight",)),),
    requests_sql="SELECT 1",
    fields=(
        RequestField(name="origin", dtype="string"),
        RequestField(name="carrier", dtype="string"),
        RequestField(name="distance", dtype="number"),
    ),
    derived=(),
    features=(
        FeatureSpec(
            name="origin_delay_mean", entity=ORIGIN, log=DEPARTURES, value="delay",
            aggregation="mean", window=timedelta(hours=1), weight="flights", bounds=(-60, 600),
            description="mean delay",
        ),
        FeatureSpec(
            name="origin_last_at", entity=ORIGIN, log=DEPARTURES, value="at",
            aggregation="last", as_age=True, description="last departure",
        ),
    ),
    slices=("origin", "carrier", "month"),
    gate=(
        GateRule(name="AUC", metric="test.auc", operator=">=", limit=0.6),
        GateRule(name="each origin", metric="slice_min.origin.auc", operator=">=", limit=0.55),
        GateRule(
            name="no worse than the champion", metric="versus_champion.auc.high",
            operator=">=", limit=0.0, optional=True,
        ),
    ),
)  # fmt: skip


def toy_rows(count: int = 6000, days: int = 120, seed: int = 0) -> pa.Table:
    """A training set of the toy use case; the label depends on delay and carrier."""
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, days * 86_400, count))
    event = np.datetime64("2013-07-01T09:00:00", "us") + second.astype("timedelta64[s]")
    day = second // 86_400
    delay = rng.normal(10, 12, count) + rng.normal(0, 6, days)[day]
    carrier = rng.choice(["AA", "B6", "UA"], count, p=[0.6, 0.38, 0.02])
    raw = 0.07 * (delay - 10) + np.where(carrier == "B6", 0.5, -0.3) - 0.8
    late = rng.random(count) < 1 / (1 + np.exp(-raw))
    split = np.array(["training", "validation", "test"])[
        np.digitize(day, [days // 2, days * 2 // 3])
    ]
    hour = np.timedelta64(3600, "s")
    stamp = pa.timestamp("us", tz="UTC")
    tick = (event - hour).astype("datetime64[h]").astype("datetime64[us]")
    missing = rng.random(count) < 0.05
    return pa.table(
        {
            "request_id": [f"r{i}" for i in range(count)],
            "prediction_time": pa.array(event - hour).cast(stamp),
            "event_time": pa.array(event).cast(stamp),
            "tick": pa.array(tick).cast(stamp),
            "origin": rng.choice(["JFK", "LGA"], count),
            "carrier": carrier,
            "distance": rng.uniform(100, 2500, count),
            "origin_delay_mean": pa.array(delay, mask=missing),
            "origin_last_at": tick.astype("datetime64[s]").astype(np.float64) - 600.0,
            "label": late.astype(np.float64),
            "label_available_at": pa.array(event + hour).cast(stamp),
            "split": split,
        }
    )


def toy_training_set(home: Home, **options: int) -> Table:
    """The rows above as a stored table."""
    return write_table(home, "training_set", toy_rows(**options))


def toy_model(home: Home, table: pa.Table, slope: float = 0.8, case: UseCase = TOY) -> Folder:
    """A model folder whose graph reads the delay and the carrier; ``slope=0`` ignores the delay."""
    inputs = model_inputs(case, labelled_rows(case, table, "training").columns)
    preprocessor = Preprocessor.fit(input_columns(case), inputs)

    def write(folder: Path) -> None:
        (folder / "preprocess.json").write_text(preprocessor.to_json())
        onnx.save(_graph(preprocessor, slope, case.task == "binary"), str(folder / "model.onnx"))
        document = _document(case, slope)
        (folder / "model.json").write_text(json.dumps(document, indent=1, sort_keys=True))

    return store_folder(home, "model", write)


def _document(case: UseCase, slope: float) -> dict[str, Any]:
    names = input_columns(case)
    return {
        "use_case": case.name,
        "task": case.task,
        "label": case.label,
        "unit": case.unit,
        "threshold": case.threshold,
        "declaration": case.declaration,
        "inputs": {"numeric": names.numeric, "categorical": names.categorical},
        "views": [view.name for view in case.views],
        "lag_seconds": 300,
        "tick_seconds": 900,
        "architecture": "toy",
        "config": {"slope": slope},
        "seed": 1,
        "parity": 0.0,
    }


def _graph(preprocessor: Preprocessor, slope: float, binary: bool) -> onnx.ModelProto:
    """prediction = [sigmoid of] numeric @ weights + effect[carrier]."""
    shape = preprocessor.shape
    weights = np.zeros((shape.numeric, 1), np.float32)
    weights[preprocessor.numeric.index("origin_delay_mean")] = slope
    codes = list(preprocessor.categories["carrier"])
    effect = np.array([[0.0]] + [[0.5 if c == "B6" else -0.3] for c in codes], np.float32) - 0.8
    nodes = [
        helper.make_node("MatMul", ["numeric", "weights"], ["linear"]),
        helper.make_node("Gather", ["categorical", "one"], ["carrier"], axis=1),
        helper.make_node("Gather", ["effect", "carrier"], ["shift"]),
        helper.make_node("Add", ["linear", "shift"], ["raw"]),
        helper.make_node("Sigmoid" if binary else "Identity", ["raw"], ["flat"]),
        helper.make_node("Reshape", ["flat", "all"], ["prediction"]),
    ]
    constants = {"weights": weights, "effect": effect, "one": np.array(1), "all": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", shape.numeric]),
            helper.make_tensor_value_info(
                "categorical", TensorProto.INT64, ["n", len(shape.cardinalities)]
            ),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@contextmanager
def toy_registered() -> Iterator[None]:
    """The toy use case is among the known ones, and no result comes from Flyte's local cache."""
    before = os.environ.get("FLYTE_LOCAL_CACHE_ENABLED")
    os.environ["FLYTE_LOCAL_CACHE_ENABLED"] = "false"
    USE_CASES[TOY.name] = TOY
    try:
        yield
    finally:
        del USE_CASES[TOY.name]
        if before is None:
            del os.environ["FLYTE_LOCAL_CACHE_ENABLED"]
        else:
            os.environ["FLYTE_LOCAL_CACHE_ENABLED"] = before
