"""From checked questions to recorded answers; knows neither HTTP nor KServe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import RequestError, StateError
from feature_repo.ticks import tick_of
from serving.predictions import Prediction, PredictionLog, new_id
from serving.requests import Instance, columns_of, naive
from serving.telemetry import Telemetry, log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from serving.certificate import Certificate
    from serving.online import OnlineFeatures, OnlineStore
    from serving.predictor import Predictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A recorded prediction, and which views had no living row for it."""

    prediction: Prediction
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
        self._log = prediction_log
        self._recorder = GroupCommit(prediction_log)

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
        await self._recorder.record([answer.prediction for answer in answers])
        self.telemetry.predicted(len(answers), answers[0].prediction.tick)
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
        self._log.close()

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
        )
        decision = score >= self._threshold if self.use_case.task == "binary" else None
        missing = tuple(view for view, age in ages.items() if age is None)
        return Answer(prediction=prediction, decision=decision, missing=missing, stale=stale)


class GroupCommit:
    """One commit at a time, in a thread; requests that wait meanwhile share the next one, so a
    slow disk costs each request at most two commits, however many there are."""

    def __init__(self, prediction_log: PredictionLog) -> None:
        self._log = prediction_log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prediction-log")
        self._waiting: list[tuple[list[Prediction], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def record(self, predictions: list[Prediction]) -> None:
        """Return when the predictions are on disk; raises StateError when they cannot be."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((predictions, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await done

    def close(self) -> None:
        """Wait for the last commit."""
        self._thread.shutdown()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            rows: list[Any] = [p for predictions, _ in batch for p in predictions]
            error: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._log.record, rows)
            except Exception as exc:  # whatever it was, each waiting request must hear of it
                error = exc
            for _, done in batch:
                if done.done():
                    continue  # its client is gone
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)


def number(value: float) -> float | None:
    """A float for JSON, None for NaN."""
    return None if np.isnan(value) else float(value)
