"""From checked questions to answers that are recorded; knows neither HTTP nor KServe."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import RequestError, StateError
from feature_repo.fallback import fallback_reasons
from feature_repo.ticks import tick_of
from serving.answered import Answered, new_ids
from serving.answers import Answers
from serving.instances import Instance, InstanceForm, columns_of
from serving.predictor import split
from serving.preprocess import UNKNOWN
from serving.requests import Question
from serving.telemetry import log
from serving.vectors import Vectors

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.inputs import Array, Inputs
    from serving.answered import Role
    from serving.certificate import Certificate
    from serving.metrics import ModelMetrics
    from serving.online import OnlineFeatures, OnlineStore
    from serving.predictor import Predictor, Scored
    from serving.recorder import Recorder


class Service:
    """One certified model over one online store.

    ``durable``: an answer leaves once its record is on disk; otherwise records are queued, and
    what finds no room is counted. ``fallback``: the model of the request alone, where the use case
    declares one.
    """

    def __init__(
        self,
        *,
        use_case: UseCase,
        predictor: Predictor,
        store: OnlineStore,
        recorder: Recorder | None,
        metrics: ModelMetrics,
        certificate: Certificate,
        version: str,
        threshold: float,
        fallback: Predictor | None = None,
        durable: bool = True,
        role: Role = "champion",
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.use_case = use_case
        self.metrics = metrics
        self.certificate = certificate
        self.version = version
        self.now = clock
        self.form = InstanceForm(use_case)
        self._predictor = predictor
        self._fallback = fallback
        self._falls = fallback_reasons(use_case)
        self._out = False
        self._store = store
        self._threshold = threshold
        self._recorder = recorder
        self._durable = durable
        self._role: Role = role
        self._views = tuple(view.name for view in use_case.views)
        self._categories = predictor.inputs.categorical
        if self._falls and fallback is None:
            raise StateError(f"{use_case.name}: no fallback was loaded, but its policies need one")

    @property
    def name(self) -> str:
        """The model's name: that of its use case."""
        return self.use_case.name

    @property
    def inputs(self) -> Inputs:
        """Names of the model's inputs, in the order of a full vector."""
        return self._predictor.inputs

    def ready(self) -> bool:
        """Whether the feature store answers, as it did at the start, where requests are refused
        without it (the model was verified and warmed before)."""
        if self.use_case.outage_policy != "refuse":
            return True
        try:
            return bool(self._store.tick)
        except StateError as exc:
            log("not ready", logging.WARNING, reason=str(exc))
            return False

    def ask(self, question: Question, request_id: str = "") -> Answers:
        """Answers that are not recorded yet.

        Raises:
            RequestError: 409 the store is later than the request's tick, 503 it is too far
                behind or there is no finite prediction, 422 inputs cannot be derived.
            StateError: the store does not answer.
        """
        if isinstance(question, Vectors):
            answers = self._ask_vectors(question, request_id)
        else:
            answers = self._ask_stored(question, request_id)
        self.metrics.rows.add(len(question))
        self.metrics.scores.add_all(answers.answered.scores)
        return answers

    def record(self, answers: Answers) -> Awaitable[None] | None:
        """Record answers: on disk when what is returned is done, or queued where it is None.

        Raises:
            StateError: (of what is returned) the record cannot be written.
        """
        if self._recorder is None:
            raise StateError("this service records nothing: its owner does")
        if self._durable:
            return self._recorder.record(answers.answered)
        self._recorder.offer(answers.answered)
        return None

    def close(self) -> None:
        """Let go of the store. The recorder is its owner's."""
        self._store.close()

    def _ask_vectors(self, question: Vectors, request_id: str) -> Answers:
        began, now, rows = perf_counter(), self.now(), len(question)
        scored = self._predictor.predict_vectors(question.numeric, question.texts)
        self._check_finite(scored.scores)
        self.metrics.phases["predict"].add(perf_counter() - began)
        texts = zip(*question.texts, strict=True) if question.texts else [()] * rows
        fields = [dict(zip(self._categories, words, strict=True)) for words in texts]
        return Answers(
            use_case=self.use_case, views=(), missing=(), stale=(), threshold=self._threshold,
            copy_age=0.0, unknown=self._unknown(scored),
            answered=Answered(
                ids=new_ids(rows), at=now, prediction_times=[now] * rows, tick=None, fields=fields,
                scores=scored.scores, layout="vector", values=question.numeric, ages=None,
                version=self.version, certificate=self.certificate.id,
                subject=self.certificate.subject, request_id=request_id, role=self._role,
            ),
        )  # fmt: skip

    def _ask_stored(self, instances: Sequence[Instance], request_id: str) -> Answers:
        began, now = perf_counter(), self.now()
        fields = [instance.fields for instance in instances]
        rows, stale, out = self._looked_up(instances, fields)
        at = rows.tick.timestamp()
        ages = (at - rows.events) / 60.0
        lost = out or self.metrics.looked_up(at, ages, rows.copy_age)
        missing = self._missing(ages, out) if lost else [[]] * len(instances)
        why = self._reasons(stale, missing, out) if lost or True in stale else None
        found = perf_counter()
        self.metrics.phases["features"].add(found - began)
        scored = self._predict(instances, rows.values, at, why)
        self.metrics.phases["predict"].add(perf_counter() - found)
        return Answers(
            use_case=self.use_case, views=self._views, missing=missing, stale=stale,
            threshold=self._threshold, copy_age=rows.copy_age, unknown=self._unknown(scored),
            fallback=why,
            answered=Answered(
                ids=new_ids(len(instances)), at=now,
                prediction_times=[instance.prediction_time for instance in instances],
                tick=rows.tick, fields=fields, scores=scored.scores, layout="store",
                values=rows.values, ages=ages, version=self.version,
                certificate=self.certificate.id, subject=self.certificate.subject, stale=stale,
                fallback=[",".join(one) for one in why] if why else "",
                request_id=request_id, role=self._role,
            ),
        )  # fmt: skip

    def _looked_up(
        self, instances: Sequence[Instance], fields: Sequence[Mapping[str, Any]]
    ) -> tuple[OnlineFeatures, list[bool], bool]:
        """Stored features, which instances they are too old for, and whether the store is out:
        they are then missing."""
        try:
            rows = self._store.read(fields)
        except StateError as exc:
            case, count = self.use_case, len(instances)
            self.metrics.applied("outage", case.outage_policy, count)
            if case.outage_policy == "refuse":
                raise
            if not self._out:
                log("answers without the feature store", logging.ERROR, reason=str(exc))
            self._out = True
            asked = tick_of(instances[0].prediction_time, tick=case.tick, lag=case.lag)
            return self._store.nothing(asked, count), [True] * count, True
        if self._out:
            log("answers with the feature store again")
            self._out = False
        return rows, self._check_ticks(instances, rows.tick), False

    def _reasons(
        self, stale: Sequence[bool], missing: Sequence[Sequence[str]], out: bool
    ) -> list[list[str]] | None:
        """Why the fallback answers each instance, empty where the model does; None: it does for
        all."""
        hits = {"outage": stale} if out else {"stale": stale, "missing": missing}
        found = [(why, of) for why, of in hits.items() if why in self._falls and any(of)]
        if not found:
            return None
        self.metrics.fallbacks += 1
        return [[why for why, of in found if of[i]] for i in range(len(stale))]

    def _predict(
        self, instances: Sequence[Instance], values: Array, at: float,
        why: Sequence[Sequence[str]] | None,
    ) -> Scored:  # fmt: skip
        try:
            columns, tick = columns_of(self.use_case, instances), np.array([at])
            if why is None or self._fallback is None:
                scored = self._predictor.predict_stored(columns, values, tick)
            else:
                fallen = np.array(list(map(bool, why)))
                scored = split(self._predictor, self._fallback, columns, values, tick, fallen)
        except (ArithmeticError, LookupError, ValueError) as exc:
            log("inputs not derived", logging.WARNING, reason=repr(exc))
            raise RequestError(
                422, "instances", f"the model's inputs cannot be derived from these fields: {exc}"
            ) from exc
        self._check_finite(scored.scores)
        return scored

    def _check_finite(self, scores: Array) -> None:
        # The sum of finite predictions is finite, and of others it is not.
        if not math.isfinite(scores.sum()):
            raise RequestError(503, "", "the model gave no finite prediction; none is answered")

    def _missing(self, ages: Array, out: bool) -> list[list[str]]:
        """Views without a living row, of each instance; all, where the store is ``out``.

        Raises:
            RequestError: 422 the declared policy refuses such instances.
        """
        missing = [
            [view for view, gone in zip(self._views, row, strict=True) if gone]
            for row in np.isnan(ages).tolist()
        ]
        if out:
            return missing
        policy = self.use_case.missing_policy
        self.metrics.applied("missing", policy, sum(map(bool, missing)))
        if policy == "refuse":
            first = next(i for i, views in enumerate(missing) if views)
            raise RequestError(
                422, f"instances[{first}]", f"the store has no living row of "
                f"{', '.join(missing[first])} for these entities; ask about known ones",
            )  # fmt: skip
        return missing

    def _unknown(self, scored: Scored) -> list[list[str]]:
        """Categorical inputs with a value that the training part never held, of each instance."""
        if scored.codes.all():
            return [[]] * len(scored.codes)
        named: list[list[str]] = [[] for _ in scored.codes]
        for row, place in np.argwhere(scored.codes == UNKNOWN).tolist():
            named[row].append(self._categories[place])
            self.metrics.unknown_value(self._categories[place])
        return named

    def _check_ticks(self, instances: Sequence[Instance], store: datetime) -> list[bool]:
        """Whether each instance is asked too long after the store's tick to be served fresh."""
        case, stale, at, asked = self.use_case, [], None, store
        for position, instance in enumerate(instances):
            if instance.prediction_time != at:  # most batches are of one time
                at = instance.prediction_time
                asked = tick_of(at, tick=case.tick, lag=case.lag)
            if asked < store:
                raise RequestError(
                    409, f"instances[{position}].prediction_time", f"reads tick "
                    f"{asked.isoformat()}, but the store is already at {store.isoformat()}: "
                    "answering would leak later facts; ask for a later time",
                )  # fmt: skip
            late = asked - store > case.stale_after
            stale.append(late)
            if late and case.stale_policy == "refuse":
                self.metrics.applied("stale", "refuse", 1)
                raise RequestError(
                    503, f"instances[{position}].prediction_time", f"reads tick "
                    f"{asked.isoformat()}, but the store is only at {store.isoformat()}, more "
                    f"than {case.stale_after} behind; materialise it",
                )  # fmt: skip
        if any(stale):
            self.metrics.applied("stale", case.stale_policy, sum(stale))
        return stale
