"""A model directory: the names of its files, and what ``model.json`` says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import StateError

MODEL = "model.onnx"
PREPROCESS = "preprocess.json"
MODEL_JSON = "model.json"
EVALUATION = "evaluation.json"
GATE = "gate.json"
LINEAGE = "lineage.json"
CARD_MARKDOWN = "card.md"
CARD_HTML = "card.html"
CERTIFICATE = "certificate.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """``model.json``: what the graph answers and what it was trained to read."""

    use_case: str
    task: str
    label: str
    unit: str
    threshold: float
    declaration: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    views: tuple[str, ...]
    lag_seconds: int
    tick_seconds: int
    document: dict[str, Any]


def read_model(folder: Path) -> ModelInfo:
    """What ``model.json`` in ``folder`` says.

    Raises:
        StateError: the file is missing, is no JSON or lacks an entry.
    """
    path = folder / MODEL_JSON
    try:
        document = json.loads(path.read_bytes())
        return ModelInfo(
            use_case=str(document["use_case"]),
            task=str(document["task"]),
            label=str(document["label"]),
            unit=str(document["unit"]),
            threshold=float(document["threshold"]),
            declaration=str(document["declaration"]),
            numeric=tuple(document["inputs"]["numeric"]),
            categorical=tuple(document["inputs"]["categorical"]),
            views=tuple(document["views"]),
            lag_seconds=int(document["lag_seconds"]),
            tick_seconds=int(document["tick_seconds"]),
            document=document,
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StateError(
            f"{path} is missing or no model description ({exc!r}); export the model again"
        ) from exc
