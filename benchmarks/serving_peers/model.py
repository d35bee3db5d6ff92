"""What every peer calls: the project's own preprocessing and session, of the same model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_repo.registry import get_use_case
from serving.predictor import Predictor

PORT = int(os.environ.get("BENCH_PORT", "0"))
QUIET = bool(os.environ.get("BENCH_QUIET"))


def predictor() -> Predictor:
    """The model of ``$BENCH_MODEL``."""
    return Predictor(get_use_case("flights"), Path(os.environ["BENCH_MODEL"]))


def scores(model: Predictor, instances: Sequence[Mapping[str, Any]]) -> list[float]:
    """Scores of instances ``{"numeric": […], "categorical": […]}``; null is a missing number."""
    numeric = np.array([one["numeric"] for one in instances], dtype=np.float64)
    texts = list(zip(*(one["categorical"] for one in instances), strict=True))
    return model.predict_vectors(numeric, texts).scores.tolist()
