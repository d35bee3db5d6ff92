"""A release on a cluster: patches of one InferenceService, in Standard and in Knative mode.

Standard: ``spec.canary`` holds the challenger as a predictor of its own name. Knative:
``spec.predictor`` becomes the challenger's with ``canaryTrafficPercent``, and the revision before
answers the rest. KServe mirrors nothing: there the shadow sees no requests, so a plan for a
cluster asks for none in it, and pairs come from requests that a caller sends to both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from serving.cluster_objects import InferenceServices, Manifest
from serving.manifest import Deployment, build
from serving.manifest_rules import SUBJECT
from serving.rollout_plan import Traffic
from serving.served import check_subject, traffic_at
from serving.target import Challenger, Observed

_SCALING = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")
_VERSION = "airworthy.dev/version"
WAIT_SECONDS = 600.0


class ClusterTarget:
    """``champion``: how the champion is deployed; ``storage``: the address under which the
    cluster finds model directories by subject; ``addresses``: of the arms' services (http://…),
    ``champion`` and ``canary``, for their ``/metrics``."""

    def __init__(
        self, services: InferenceServices, champion: Deployment, storage: str,
        addresses: Mapping[str, str], wait_seconds: float = WAIT_SECONDS,
    ) -> None:  # fmt: skip
        self._services, self._champion, self._storage = services, champion, storage
        self._addresses, self._wait = addresses, wait_seconds
        self._name = champion.name or champion.use_case
        self._knative = champion.deployment_mode in ("Knative", "Serverless")

    def begin(self, challenger: Challenger) -> None:
        """See ``Target``: at 0 %, ready in the right generation, and then asked who it is.

        Raises:
            ManifestError: the object would break a rule or the CRD.
            StateError: it does not become ready, or another model answers.
        """
        if self._services.get(self._name) is None:
            self._services.create(build(self._champion))
        predictor = self._predictor(challenger)

        def change(held: Manifest) -> Manifest:
            if _canary(held)[0] == challenger.subject:
                return {}  # it is there, at the share that it has
            if self._knative:
                spec: Manifest = {"predictor": {**predictor, "canaryTrafficPercent": 0}}
                return {**_labelled(challenger), "spec": spec}
            return {"spec": {"canary": [{"trafficPercent": 0, "predictor": predictor}]}}

        self._patch(change)
        check_subject(self._addresses["canary"], challenger.subject)

    def weights(self, percent: int) -> None:
        """See ``Target``."""

        def change(held: Manifest) -> Manifest:
            canaries = held["spec"].get("canary") or []
            if _canary(held)[1] in (percent, None):
                return {}
            if self._knative:
                return {"spec": {"predictor": {"canaryTrafficPercent": percent}}}
            return {"spec": {"canary": [{**canaries[0], "trafficPercent": percent}]}}

        self._patch(change)

    def shadow(self, on: bool) -> None:
        """See ``Target``: there is nothing to do, KServe mirrors nothing."""

    def observe(self, slow_seconds: float) -> Observed:
        """See ``Target``: since the pods started, one pod an arm, as the manifest has it."""
        return Observed(
            champion=traffic_at(self._addresses["champion"], slow_seconds),
            canary=traffic_at(self._addresses["canary"], slow_seconds),
            shadow=Traffic(),
        )

    def rollback(self) -> None:
        """See ``Target``. In Knative mode the challenger stays at 0 %: the revision before answers
        all, and the next release replaces it."""

        def change(held: Manifest) -> Manifest:
            if self._knative:
                at = _canary(held)[1]
                return {"spec": {"predictor": {"canaryTrafficPercent": 0}}} if at else {}
            return {"spec": {"canary": None}} if held["spec"].get("canary") else {}

        self._patch(change)

    def promote(self) -> None:
        """See ``Target``: one patch, so that there is no moment without a predictor."""

        def change(held: Manifest) -> Manifest:
            if self._knative:
                known = "canaryTrafficPercent" in held["spec"]["predictor"]
                return {"spec": {"predictor": {"canaryTrafficPercent": None}}} if known else {}
            if not held["spec"].get("canary"):
                return {}
            predictor = held["spec"]["canary"][0]["predictor"]
            marks = predictor["annotations"][SUBJECT], predictor["labels"][_VERSION]
            return {**_marked(*marks), "spec": {"predictor": predictor, "canary": None}}

        self._patch(change)

    def _patch(self, change: Callable[[Manifest], Manifest]) -> None:
        generation = self._services.patch(self._name, change)
        self._services.wait(self._name, generation, self._wait)

    def _predictor(self, challenger: Challenger) -> Manifest:
        """As the champion's, of another model; a canary in Standard mode has a name of its own,
        and takes no autoscaling fields."""
        deployment = replace(
            self._champion, subject=challenger.subject, version=challenger.version,
            storage_uri=f"{self._storage}/{self._champion.use_case}/{challenger.subject}",
        )  # fmt: skip
        manifest = build(deployment)
        predictor: Manifest = manifest["spec"]["predictor"]
        predictor["containers"][0]["args"] += ["--role", "canary"]
        if self._knative:
            return predictor
        labels = {_VERSION: manifest["metadata"]["labels"][_VERSION]}
        own = {"name": f"m-{challenger.subject[:12]}", "annotations": {SUBJECT: challenger.subject}}
        kept = {key: value for key, value in predictor.items() if key not in _SCALING}
        return {**kept, **own, "labels": labels}


def _canary(held: Manifest) -> tuple[str, int | None]:
    """Subject and share of the challenger that the object holds; an empty text and None."""
    canaries = held["spec"].get("canary") or []
    if canaries:
        marks = canaries[0]["predictor"].get("annotations") or {}
        return str(marks.get(SUBJECT)), int(canaries[0]["trafficPercent"])
    percent = held["spec"]["predictor"].get("canaryTrafficPercent")
    subject = (held["metadata"].get("annotations") or {}).get(SUBJECT)
    return (str(subject), int(percent)) if percent is not None else ("", None)


def _labelled(challenger: Challenger) -> Manifest:
    return _marked(challenger.subject, challenger.version.replace("+", "_"))


def _marked(subject: str, version: str) -> Manifest:
    return {"metadata": {"annotations": {SUBJECT: subject}, "labels": {_VERSION: version}}}
