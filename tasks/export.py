"""Weights to the model folder that is evaluated, certified and served."""

from __future__ import annotations

import json
import logging
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flytekit import task

from feature_repo.errors import SkewError
from feature_repo.fallback import request_only
from feature_repo.registry import get_use_case
from serving.artifact import FALLBACK
from tasks.cache import code_cache
from tasks.folders import open_folder, store_folder
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import Folder, State, Step

if TYPE_CHECKING:
    import torch

    from feature_repo.contract import UseCase
    from serving.preprocess import Preprocessor

TOLERANCE = 1e-5
BATCHES = (1, 3, 257)  # none of them the exporter's example size: a frozen batch would show
CODE = (
    "tasks.export",
    "feature_repo.fallback",
    "feature_repo.inputs",
    "serving.network",
    "serving.preprocess",
    "serving.tabm_network",
)


class Exported(NamedTuple):
    """The model folder (ONNX, preprocessing, description) and what the step did."""

    model: Folder
    step: Step


@task(
    cache=code_cache(
        *CODE,
        libraries=(
            "torch",
            "onnx",
            "onnxscript",
            "onnxruntime",
            "safetensors",
            "tabm",
            "rtdl_num_embeddings",
        ),
    ),
    requests=DATA,
    retries=2,
    timeout=timedelta(minutes=30),
)
def export_model(state: State, use_case: str, declaration: str, trained: Folder) -> Exported:
    """Export to ONNX and check it against torch on batches of several sizes; the fallback likewise,
    into a folder of its own.

    Raises:
        SkewError: the exported graph's predictions differ from torch's by more than 1e-5.
    """
    with step("export") as s:
        source = open_folder(trained)
        declared = get_use_case(use_case)

        def write(folder: Path) -> None:
            _export(declared, source, folder)
            if (source / FALLBACK).is_dir():
                (folder / FALLBACK).mkdir()
                _export(request_only(declared), source / FALLBACK, folder / FALLBACK)

        model = store_folder(state.home(), "model", write)
        found = sorted(Path(model.uri).rglob("model.json"))
        worst = max(json.loads(p.read_text())["parity"]["max_difference"] for p in found)
        s.say(
            f"ONNX equals torch within {worst:.1e} on batches of {', '.join(map(str, BATCHES))}"
            + (", so does the fallback's" if len(found) > 1 else "")
        )
    return Exported(model, s.record)


def _export(use_case: UseCase, source: Path, folder: Path) -> None:
    from safetensors.torch import load_file

    from serving.network import Calibrated, builder_of, export_onnx
    from serving.preprocess import Preprocessor

    record = json.loads((source / "training.json").read_text())
    text = (source / "preprocess.json").read_text()
    preprocessor = Preprocessor.from_json(text)
    builder = builder_of(use_case, record["config"]["model"])
    network = builder.network(preprocessor.shape, record["config"])
    network.load_state_dict(load_file(source / "weights.safetensors"))
    binary = use_case.task == "binary"
    served = Calibrated(network, record["slope"], record["intercept"], binary).eval()
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        (builder.export or export_onnx)(served, preprocessor.shape, path)
    difference = _parity(served, preprocessor, path)
    (folder / "preprocess.json").write_text(text)
    description = _describe(use_case, preprocessor, record, builder.name, difference)
    (folder / "model.json").write_text(json.dumps(description, indent=1, sort_keys=True))


def _parity(served: torch.nn.Module, preprocessor: Preprocessor, path: Path) -> float:
    """Greatest absolute difference between torch and ONNX Runtime on random batches."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = preprocessor.shape
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows in BATCHES:
        numeric = torch.randn(rows, shape.numeric, generator=generator)
        codes = [torch.randint(0, n, (rows,), generator=generator) for n in shape.cardinalities]
        categorical = torch.stack(codes, dim=1) if codes else torch.zeros(rows, 0).long()
        with torch.no_grad():
            expected = served(numeric, categorical).numpy()
        arrays = {"numeric": numeric.numpy(), "categorical": categorical.numpy()}
        feed = {i.name: arrays[i.name] for i in session.get_inputs()}
        answer = session.run(None, feed)[0]
        if answer.shape != expected.shape:
            raise SkewError(
                f"{path.name}: a batch of {rows} gave {answer.shape[0]} predictions; the batch "
                "dimension was frozen by the export: take len() and .size(0) out of forward"
            )
        scale = max(1.0, float(abs(expected).max()))
        worst = max(worst, float(abs(answer - expected).max()) / scale)
    if worst > TOLERANCE:
        raise SkewError(
            f"{path.name}: ONNX and torch differ by {worst:.2e} (limit {TOLERANCE}); export with "
            "operators that both compute alike"
        )
    return worst


def _describe(
    use_case: UseCase,
    preprocessor: Preprocessor,
    record: dict[str, Any],
    architecture: str,
    difference: float,
) -> dict[str, Any]:
    """The content of model.json: what the model reads, answers and was made with."""
    return {
        "use_case": use_case.name,
        "task": use_case.task,
        "label": use_case.label,
        "unit": use_case.unit,
        "threshold": use_case.threshold,
        "declaration": use_case.declaration,
        "inputs": {
            "numeric": list(preprocessor.numeric),
            "categorical": list(preprocessor.categories),
        },
        "views": [view.name for view in use_case.views],
        "tick_seconds": int(use_case.tick.total_seconds()),
        "lag_seconds": int(use_case.lag.total_seconds()),
        "architecture": architecture,
        "config": record["config"],
        "auxiliary": record["auxiliary"],
        "seed": record["config"]["seed"],
        "parity": {"max_difference": difference, "batches": list(BATCHES)},
    }
