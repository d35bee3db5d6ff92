"""From checked questions to recorded answers; knows neither HTTP nor KServe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.errors import RequestError, StateError
from feature_repo.ticks import tick_of
from serving.answered import new_id
from serving.predictions import Prediction, as_answered
from serving.recorder import Recorder
from serving.requests import Instance, columns_of, naive
from serving.telemetry import Telemetry, log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from serving.certificate import Certificate
    from serving.online import OnlineFeatures, OnlineStore
    from serving.predictor import Predictor
    from serving.segments import PredictionLog


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A recorded prediction, and which views had no living row for it."""

    prediction: Prediction
    tick: datetime
    decision: bool | None
    missing: tuple[str, ...]
    stale: bool


class Service:
    """One certified model over one online store."""

    def __init__(
        self,
        *,
        use_case: UseCase,
        predictor: Predictor,
        store: OnlineStore,
        prediction_log: PredictionLog,
        telemetry: Telemetry,
        certificate: Certificate,
        version: str,
        threshold: float,
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.use_case = use_case
        self.telemetry = telemetry
        self.certificate = certificate
        self.version = version
        self.now = clock
        self._predictor = predictor
        self._store = store
        self._threshold = threshold
        self._recorder = Recorder(prediction_log)

    @property
    def name(self) -> str:
        """The model's name: that of its use case."""
        return self.use_case.name

    def ready(self) -> bool:
        """Whether the feature store answers (the model was verified and warmed before)."""
        try:
            return bool(self._store.tick)
        except StateError as exc:
            log("not ready", logging.WARNING, reason=str(exc))
            return False

    async def answer(self, instances: Sequence[Instance]) -> list[Answer]:
        """Predict, record durably, and only then answer.

        Raises:
            RequestError: 409 the store is later than the request's tick, 503 it is too far
                behind or there is no finite prediction, 422 inputs cannot be derived.
            StateError: the store or the prediction log does not answer.
        """
        answers = self.predict(instances)
        await self._recorder.record(as_answered([a.prediction for a in answers], self.use_case))
        self.telemetry.predicted(len(answers), answers[0].tick)
        return answers

    def predict(self, instances: Sequence[Instance]) -> list[Answer]:
        """Answers that are not recorded yet; for errors see ``answer``."""
        rows = self._store.read([instance.fields for instance in instances])
        stale = self._check_ticks(instances, rows.tick)
        columns = columns_of(self.use_case, instances) | rows.columns
        columns["tick"] = np.full(len(instances), naive(rows.tick), dtype="datetime64[s]")
        try:
            scores = self._predictor.predict(columns)
        except (ArithmeticError, LookupError, ValueError) as exc:
            log("inputs not derived", logging.WARNING, reason=repr(exc))
            raise RequestError(
                422, "instances", f"the model's inputs cannot be derived from these fields: {exc}"
            ) from exc
        if not np.isfinite(scores).all():
            raise RequestError(503, "", "the model gave no finite prediction; none is answered")
        now = self.now()
        answers = [
            self._one(instance, rows, i, float(scores[i]), now, stale[i])
            for i, instance in enumerate(instances)
        ]
        for view, ticks in rows.view_ticks.items():
            if lost := int(np.isnan(ticks).sum()):
                self.telemetry.missing(view, lost)
        return answers

    def close(self) -> None:
        """Close the store and the prediction log."""
        self._recorder.close()
        self._store.close()

    def _check_ticks(self, instances: Sequence[Instance], store: datetime) -> list[bool]:
        """Whether each instance is asked too long after the store's tick to be served fresh."""
        case, stale = self.use_case, []
        for position, instance in enumerate(instances):
            where = f"instances[{position}].prediction_time"
            asked = tick_of(instance.prediction_time, tick=case.tick, lag=case.lag)
            if asked < store:
                raise RequestError(
                    409, where, f"reads tick {asked.isoformat()}, but the store is already at "
                    f"{store.isoformat()}: answering would leak later facts; ask for a later time",
                )  # fmt: skip
            stale.append(asked - store > case.stale_after)
            if stale[-1] and case.stale_policy == "refuse":
                self.telemetry.stale(1)
                raise RequestError(
                    503, where, f"reads tick {asked.isoformat()}, but the store is only at "
                    f"{store.isoformat()}, more than {case.stale_after} behind; materialise it",
                )  # fmt: skip
        if any(stale):
            self.telemetry.stale(sum(stale))
        return stale

    def _one(
        self, instance: Instance, rows: OnlineFeatures, i: int, score: float, now: datetime,
        stale: bool,
    ) -> Answer:  # fmt: skip
        store = rows.tick.timestamp()
        ages = {v: number((store - ticks[i]) / 60.0) for v, ticks in rows.view_ticks.items()}
        prediction = Prediction(
            id=new_id(),
            use_case=self.name,
            at=now,
            prediction_time=instance.prediction_time,
            tick=rows.tick,
            fields=instance.fields,
            score=score,
            version=self.version,
            certificate=self.certificate.id,
            subject=self.certificate.subject,
            features={name: number(values[i]) for name, values in rows.columns.items()},
            ages_minutes=ages,
            stale=stale,
        )
        decision = score >= self._threshold if self.use_case.task == "binary" else None
        missing = tuple(view for view, age in ages.items() if age is None)
        return Answer(
            prediction=prediction, tick=rows.tick, decision=decision, missing=missing, stale=stale,
        )  # fmt: skip


def number(value: float) -> float | None:
    """A float for JSON, None for NaN."""
    return None if np.isnan(value) else float(value)
