"""Answers in a prediction log, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.contract import UseCase
from feature_repo.home import Home
from feature_repo.inputs import input_columns
from feature_repo.registry import get_use_case
from serving.answered import Answered, new_id
from serving.predictions import Prediction, find, since
from serving.segments import PredictionLog, folder_of

if TYPE_CHECKING:
    from serving.answered import Matrix

AT = datetime(2013, 11, 5, 14, 5, 0, 123456, tzinfo=timezone.utc)
BEGINNING = AT - timedelta(days=10_000)
WEATHER = get_use_case("weather")


def prediction(use_case: UseCase = WEATHER, **changes: Any) -> Prediction:
    """A prediction with a missing feature, an unknown key and a view without a living row."""
    fields: Mapping[str, Any] = {"carrier": "UA", "tailnum": None, "distance": 2565.0}
    features: dict[str, float | None] = {s.name: i / 3 for i, s in enumerate(use_case.features)}
    ages: dict[str, float | None] = {view.name: 15.0 for view in use_case.views}
    features[use_case.features[-1].name] = ages[use_case.views[-1].name] = None
    made = Prediction(
        id=new_id(), use_case=use_case.name, at=AT, prediction_time=AT, tick=AT, fields=fields,
        score=0.1, version="1.0.0", certificate="cert-1", subject="0" * 64, features=features,
        ages_minutes=ages,
    )  # fmt: skip
    return replace(made, **changes)


def as_answered(predictions: Sequence[Prediction], use_case: UseCase) -> Answered:
    """Predictions of one request (at least one) as the columns that the log takes."""
    first = predictions[0]
    names = [spec.name for spec in use_case.features]
    if first.layout == "vector":
        names = list(input_columns(use_case).numeric)
    views = [view.name for view in use_case.views]
    return Answered(
        ids=[p.id for p in predictions], at=first.at,
        prediction_times=[p.prediction_time for p in predictions], tick=first.tick,
        fields=[p.fields for p in predictions], scores=np.array([p.score for p in predictions]),
        layout=first.layout, values=_matrix([p.features for p in predictions], names),
        ages=_matrix([p.ages_minutes for p in predictions], views) if first.ages_minutes else None,
        version=first.version, certificate=first.certificate, subject=first.subject,
        source=first.source, stale=[p.stale for p in predictions],
        fallback=[p.fallback for p in predictions], request_id=first.request_id,
        role=first.role,
    )  # fmt: skip


def _matrix(rows: Sequence[Mapping[str, float | None]], names: Sequence[str]) -> Matrix:
    """float64 [n, names], NaN for None."""
    return np.array([[row[name] for name in names] for row in rows], dtype=np.float64)


def record(home: Home, use_case: UseCase, *predictions: Prediction) -> None:
    """Record predictions, each as a request of its own, in a log that is closed then."""
    log = PredictionLog(home, use_case)
    try:
        log.record(*(as_answered([one], use_case) for one in predictions))
    finally:
        log.close()


def rewrite(home: Home, use_case: UseCase, prediction_id: str, **changes: Any) -> None:
    """Change one recorded answer, as somebody would who knows the format: in whole frames."""
    kept = every(home, use_case)
    assert prediction_id in {p.id for p in kept}
    for path in folder_of(home, use_case.name).iterdir():
        path.unlink()
    changed = [replace(p, **changes) if p.id == prediction_id else p for p in kept]
    record(home, use_case, *changed)
    found = find(home, prediction_id)
    assert found is not None
    assert all(getattr(found, name) == value for name, value in changes.items())


def every(home: Home, use_case: UseCase) -> list[Prediction]:
    """All answers of a use case, in order of id."""
    return [p for chunk in since(home, use_case.name, BEGINNING) for p in chunk]
