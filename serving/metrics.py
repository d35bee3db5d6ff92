"""Every metric of the server, in one place: what Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from serving.histograms import Ages, Counts

if TYPE_CHECKING:
    from feature_repo.inputs import Array
    from serving.certificate import Certificate

PHASES = ("parse", "features", "predict", "answer", "record")
SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
SCORES = tuple(round(i / 20, 2) for i in range(1, 21))
VALUES = tuple(sorted(s * m * 10.0**e for s in (-1, 1) for e in range(-2, 5) for m in (1, 2, 5)))
_MODEL = ("model", "version")


class ModelMetrics:
    """The numbers of one model's version. ``scores``: the buckets of its predictions."""

    def __init__(self, views: Sequence[str], scores: Sequence[float]) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Counts] = {}
        self.phases = {phase: Counts(SECONDS) for phase in PHASES}
        self.rows = Counts(ROWS)
        self.scores = Counts(scores)
        self.ages = Ages(len(views))
        self.views = tuple(views)
        self.unknown: dict[str, int] = {}
        self.policy: dict[tuple[str, str], int] = {}
        self.stale = 0
        self.fallbacks = 0
        self.tick = 0.0
        self.copy_age = 0.0
        self.certificate: dict[str, str] = {}
        self.expired = False

    def answered(self, protocol: str, code: int, seconds: float) -> None:
        """One request by its protocol and status code, and the seconds that it took."""
        key = (protocol, code)
        self.requests[key] = self.requests.get(key, 0) + 1
        counts = self.seconds.get(protocol)
        if counts is None:
            counts = self.seconds[protocol] = Counts(SECONDS)
        counts.add(seconds)

    def looked_up(self, tick: float, ages: Array, copy_age: float) -> bool:
        """Features of n instances as of ``tick`` (epoch seconds): the ages float64 [n, views] in
        minutes of the rows that were read, NaN where there is none; whether one is missing."""
        self.tick, self.copy_age = tick, copy_age
        return self.ages.add(ages)

    def unknown_value(self, name: str) -> None:
        """One categorical input's value that the training part never held."""
        self.unknown[name] = self.unknown.get(name, 0) + 1

    def applied(self, reason: str, policy: str, count: int) -> None:
        """``count`` instances that a declared policy was applied to."""
        self.policy[reason, policy] = self.policy.get((reason, policy), 0) + count
        if reason == "stale":
            self.stale += count

    def certified(self, certificate: Certificate, expired: bool) -> None:
        """Which certificate the model was loaded under."""
        signer = certificate.predicate.get("signer") or {}
        self.certificate = {
            "certificate": certificate.id,
            "subject": certificate.subject,
            "keyid": str(signer.get("keyid")),
            "development": str(certificate.development).lower(),
        }
        self.expired = expired

    def grounded(self) -> None:
        """The version is not served any more: its counters stay, it flies under nothing."""
        self.certificate = {}


class Metrics(Collector):
    """The metrics of one server process, by model and version."""

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self.refused: dict[tuple[str, int], int] = {}
        self.enrolled: dict[str, dict[str, int]] = {}
        # By model: its versions share a log, and a sum over them must not count it twice.
        self.recorded: dict[str, Callable[[], dict[str, int]]] = {}
        self.open = 0
        if registry is not None:
            registry.register(self)

    def model(
        self, name: str, version: str, views: Sequence[str] = (), scores: Sequence[float] = SCORES
    ) -> ModelMetrics:
        """The numbers of a model's version; counters go on when it is loaded again."""
        return self._models.setdefault((name, version), ModelMetrics(views, scores))

    def refuse(self, protocol: str, code: int) -> None:
        """A request that reached no model: an unknown path or name, a limit."""
        self.refused[protocol, code] = self.refused.get((protocol, code), 0) + 1

    def collect(self) -> Iterator[Metric]:
        """Every metric family, for the registry."""
        yield from self._requests()
        yield from self._features()
        yield from self._certificates()

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "airworthy_requests", "Requests answered", labels=(*_MODEL, "protocol", "code")
        )
        seconds = HistogramMetricFamily(
            "airworthy_request_seconds", "From a request's arrival to its answer",
            labels=(*_MODEL, "protocol"),
        )  # fmt: skip
        phases = HistogramMetricFamily(
            "airworthy_phase_seconds", "Parts of a request", labels=(*_MODEL, "phase")
        )
        rows = HistogramMetricFamily(
            "airworthy_batch_size", "Instances of a request", labels=_MODEL
        )
        scores = HistogramMetricFamily("airworthy_score", "Predictions made", labels=_MODEL)
        predictions = CounterMetricFamily(
            "airworthy_predictions", "Predictions made", labels=_MODEL
        )
        for labels, model in self._models.items():
            for (protocol, code), count in model.requests.items():
                requests.add_metric((*labels, protocol, str(code)), count)
            for protocol, counts in model.seconds.items():
                seconds.add_metric((*labels, protocol), counts.buckets(), counts.total)
            for phase, counts in model.phases.items():
                phases.add_metric((*labels, phase), counts.buckets(), counts.total)
            rows.add_metric(labels, model.rows.buckets(), model.rows.total)
            scores.add_metric(labels, model.scores.buckets(), model.scores.total)
            predictions.add_metric(labels, sum(model.scores.counts))
        for (protocol, code), count in self.refused.items():
            requests.add_metric(("", "", protocol, str(code)), count)
        yield from (requests, seconds, phases, rows, scores, predictions)
        yield GaugeMetricFamily("airworthy_open_requests", "Requests under way", self.open)
        enrolled = CounterMetricFamily(
            "airworthy_experiment_requests", "Requests by their part in an experiment",
            labels=("experiment", "part"),
        )  # fmt: skip
        for experiment, parts in self.enrolled.items():
            for part, count in parts.items():
                enrolled.add_metric((experiment, part), count)
        yield enrolled

    def _features(self) -> Iterator[Metric]:
        ages = HistogramMetricFamily(
            "airworthy_feature_age_minutes", "Age at the tick of the rows that were read",
            labels=(*_MODEL, "view"),
        )  # fmt: skip
        missing = CounterMetricFamily(
            "airworthy_missing_views",
            "Feature views without a living row",
            labels=(*_MODEL, "view"),
        )
        unknown = CounterMetricFamily(
            "airworthy_unknown_values", "Values that the training part never held",
            labels=(*_MODEL, "input"),
        )  # fmt: skip
        stale = CounterMetricFamily(
            "airworthy_stale_requests", "Instances asked for later than the store may answer",
            labels=_MODEL,
        )  # fmt: skip
        policy = CounterMetricFamily(
            "airworthy_policy", "Instances that a declared policy was applied to",
            labels=(*_MODEL, "reason", "policy"),
        )  # fmt: skip
        fallback = CounterMetricFamily(
            "airworthy_fallback_requests", "Requests with an answer of the fallback", labels=_MODEL
        )
        tick = GaugeMetricFamily(
            "airworthy_store_tick_seconds", "Tick of the online store, epoch seconds", labels=_MODEL
        )
        copy = GaugeMetricFamily(
            "airworthy_store_copy_age_seconds",
            "Age of the server's copy of the store",
            labels=_MODEL,
        )
        for labels, model in self._models.items():
            for place, view in enumerate(model.views):
                held = model.ages
                ages.add_metric((*labels, view), held.buckets(place), held.total(place))
                missing.add_metric((*labels, view), held.missing(place))
            for name, count in model.unknown.items():
                unknown.add_metric((*labels, name), count)
            for (reason, applied), count in model.policy.items():
                policy.add_metric((*labels, reason, applied), count)
            stale.add_metric(labels, model.stale)
            fallback.add_metric(labels, model.fallbacks)
            tick.add_metric(labels, model.tick)
            copy.add_metric(labels, model.copy_age)
        yield from (ages, missing, unknown, stale, policy, fallback, tick, copy)

    def _certificates(self) -> Iterator[Metric]:
        names = ("certificate", "subject", "keyid", "development")
        info = GaugeMetricFamily(
            "airworthy_certificate_info", "The certificate that the model flies under",
            labels=(*_MODEL, *names),
        )  # fmt: skip
        expired = GaugeMetricFamily(
            "airworthy_certificate_expired", "1: a released model beyond its date", labels=_MODEL
        )
        recorded = CounterMetricFamily(
            "airworthy_prediction_log", "Answers by what became of their record",
            labels=("model", "outcome"),
        )  # fmt: skip
        for labels, model in self._models.items():
            if model.certificate:
                info.add_metric((*labels, *(model.certificate[name] for name in names)), 1)
                expired.add_metric(labels, float(model.expired))
        for name, counts in self.recorded.items():
            for outcome, count in counts().items():
                recorded.add_metric((name, outcome), count)
        yield from (info, expired, recorded)
