"""What a recorded answer must have been: the model's score of the inputs that the record holds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import StateError
from serving.instances import Instance, columns_of, instants
from serving.predictor import Predictor, fallback_predictor

if TYPE_CHECKING:
    from feature_repo.contract import Column, UseCase
    from serving.predictions import Prediction


def recompute(
    use_case: UseCase, folder: Path, files: Mapping[str, str], prediction: Prediction
) -> float:
    """The score that the model in ``folder``, or its fallback where that answered, gives to a
    recorded question; ``files`` are the digests of its certificate.

    Raises:
        StateError: the record holds no question that the model can be asked.
        CertificateError: a file of the model is not the one that was certified.
    """
    if prediction.fallback:
        predictor = fallback_predictor(use_case, folder, files)
    else:
        predictor = Predictor(use_case, folder, files)
    try:
        if prediction.layout == "vector":
            (score,) = _of_vector(predictor, prediction)
        else:
            (score,) = predictor.predict(_columns(use_case, prediction))
    except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
        raise StateError(
            f"the record of prediction {prediction.id} is no question to {use_case.name!r} "
            f"({exc!r}): it was changed, or written by another program; restore the prediction log"
        ) from exc
    return float(score)


def _of_vector(predictor: Predictor, prediction: Prediction) -> Column:
    """The score [1] of the full input vector that a caller sent."""
    names = predictor.inputs
    values = [prediction.features[name] for name in names.numeric]
    texts = [[str(prediction.fields[name])] for name in names.categorical]
    return predictor.predict_vectors(np.array([values], dtype=np.float64), texts).scores


def _columns(use_case: UseCase, prediction: Prediction) -> dict[str, Column]:
    """The recorded request and stored features as the predictor's columns [1]."""
    fields: dict[str, Any] = dict(prediction.fields)
    for field in use_case.fields:
        if field.dtype == "timestamp":
            fields[field.name] = datetime.fromisoformat(fields[field.name])
    asked = Instance(fields=fields, prediction_time=prediction.prediction_time)
    columns = columns_of(use_case, [asked])
    if prediction.tick is None:
        raise ValueError("it has no tick")
    columns["tick"] = instants([prediction.tick])
    for spec in use_case.features:
        columns[spec.name] = np.array([prediction.features[spec.name]], dtype=np.float64)
    return columns
