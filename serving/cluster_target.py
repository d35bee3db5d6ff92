"""A release on a cluster: patches of one InferenceService, in Standard and in Knative mode.

Standard: ``spec.canary`` holds the challenger as a predictor of its own name, with one replica
from the start, since by its share KServe would give it none at 0 %; the shadow is an
InferenceService of its own, and an HTTPRoute of ours mirrors to it (``serving.mirror``). Knative:
``spec.predictor`` becomes the challenger's with ``canaryTrafficPercent``, and the revision before
answers the rest; nothing mirrors there, so a plan asks for no answers and no pairs of the shadow.
Services have the names that KServe gives them (``PredictorServiceName``, tags of Knative).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlparse

from feature_repo.errors import StateError
from serving.cluster_objects import ClusterObjects, Manifest
from serving.manifest import Deployment, build
from serving.manifest_rules import AUTOSCALING, SUBJECT
from serving.mirror import MirroredRoute
from serving.rollout_plan import Traffic
from serving.served import check_subject, traffic_at
from serving.target import Challenger, Observed

_VERSION = "airworthy.dev/version"
_TAGS = {"serving.kserve.io/enable-tag-routing": "true"}
WAIT_SECONDS = 600.0
_TRIES, _PAUSE_SECONDS = 2, 1.0


class ClusterTarget:
    """``champion``: how the champion is deployed; ``storage``: the address under which the
    cluster finds model directories by subject; ``address`` of a Service (http://…)."""

    def __init__(
        self, services: ClusterObjects, routes: ClusterObjects, champion: Deployment, storage: str,
        address: Callable[[str], str], wait_seconds: float = WAIT_SECONDS,
    ) -> None:  # fmt: skip
        self._services, self._routes = services, routes
        self._champion, self._storage = champion, storage
        self._address, self._wait = address, wait_seconds
        self._name = champion.name or champion.use_case
        self._shadow = f"{self._name}-shadow"
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
                marks = _marked(challenger.subject, _label(challenger.version))
                marks["metadata"]["annotations"] |= _TAGS
                return {**marks, "spec": spec}
            return {"spec": {"canary": [{"trafficPercent": 0, "predictor": predictor}]}}

        self._patch(self._name, change, always=True)
        check_subject(self._address(self._arms(self._held())[1]), challenger.subject)

    def weights(self, percent: int) -> None:
        """See ``Target``. The pods first, then the mirrored route, where there is one."""

        def change(held: Manifest) -> Manifest:
            canaries = held["spec"].get("canary") or []
            if _canary(held)[1] in (percent, None):
                return {}
            if self._knative:
                return {"spec": {"predictor": {"canaryTrafficPercent": percent}}}
            return {"spec": {"canary": [{**canaries[0], "trafficPercent": percent}]}}

        self._patch(self._name, change)
        if not self._knative and self._routes.get(self._shadow) is not None:
            self._mirror(self._held())

    def shadow(self, on: bool) -> None:
        """See ``Target``: up and asked who it is before anything is mirrored; in Knative mode there
        is none.

        Raises:
            StateError: it does not become ready, or another model answers.
        """
        if self._knative:
            return
        if not on:
            self._unmirror()
            return
        held = self._held()
        subject = _canary(held)[0]
        if not subject:
            return
        if self._routes.get(self._shadow) is None:
            label = held["spec"]["canary"][0]["predictor"]["labels"][_VERSION]
            wanted = build(self._deployment(subject, label, "shadow", self._shadow))
            self._services.create(wanted)
            marks = _marked(subject, label)
            self._patch(
                self._shadow,
                lambda there: (
                    {} if _subject(there) == subject else {**marks, "spec": wanted["spec"]}
                ),
                always=True,
            )
            check_subject(self._address(f"{self._shadow}-predictor"), subject)
        self._mirror(held)

    def observe(self, slow_seconds: float) -> Observed:
        """See ``Target``: since the pods started, rightly only with one pod an arm. Pods count what
        they answer, so a challenger whose pods are gone has failed in no count: it is ``down``."""
        champion, canary = self._arms(self._held())
        mirrored = not self._knative and self._routes.get(self._shadow) is not None
        ours = traffic_at(self._address(champion), slow_seconds)
        try:
            theirs = self._asked(canary, slow_seconds)
            shadow = self._asked(f"{self._shadow}-predictor" if mirrored else "", slow_seconds)
        except StateError as exc:
            return Observed(champion=ours, canary=Traffic(), shadow=Traffic(), down=str(exc))
        return Observed(champion=ours, canary=theirs, shadow=shadow)

    def _asked(self, service: str, slow_seconds: float) -> Traffic:
        """Of a Service of the challenger, asked again before it is called down."""
        for _ in range(_TRIES if service else 0):
            try:
                return traffic_at(self._address(service), slow_seconds)
            except StateError:
                time.sleep(_PAUSE_SECONDS)
        return traffic_at(self._address(service), slow_seconds) if service else Traffic()

    def rollback(self) -> None:
        """See ``Target``. In Knative mode the challenger stays at 0 %: the revision before answers
        all, and the next release replaces it."""

        def change(held: Manifest) -> Manifest:
            if self._knative:
                at = _canary(held)[1]
                return {"spec": {"predictor": {"canaryTrafficPercent": 0}}} if at else {}
            return {"spec": {"canary": None}} if held["spec"].get("canary") else {}

        self._end(change)

    def promote(self) -> None:
        """See ``Target``: one patch, so that there is no moment without a predictor."""

        def change(held: Manifest) -> Manifest:
            if self._knative:
                there = held["spec"]["predictor"]
                known = "canaryTrafficPercent" in there
                own = {**_as_champion(there), "canaryTrafficPercent": None}
                return {"spec": {"predictor": own}} if known else {}
            if not held["spec"].get("canary"):
                return {}
            before = held["spec"]["predictor"]
            predictor = _as_champion(held["spec"]["canary"][0]["predictor"])
            scaled = {key: before[key] for key in AUTOSCALING if key in before}
            marks = _marked(predictor["annotations"][SUBJECT], predictor["labels"][_VERSION])
            return {**marks, "spec": {"predictor": {**predictor, **scaled}, "canary": None}}

        self._end(change)

    def _end(self, change: Callable[[Manifest], Manifest]) -> None:
        """The route first: KServe's own has the traffic then, by the same shares, so no request
        meets pods that are gone; the shadow last."""
        if not self._knative:
            self._routes.delete(self._shadow)
        self._patch(self._name, change)
        if not self._knative:
            self._services.delete(self._shadow)

    def _unmirror(self) -> None:
        self._routes.delete(self._shadow)
        self._services.delete(self._shadow)

    def _mirror(self, held: Manifest) -> None:
        """Have the mirrored route as the InferenceService's shares are."""
        champion, canary = self._arms(held)
        host = urlparse(str((held.get("status") or {}).get("url"))).hostname
        if not host:
            raise StateError(
                f"InferenceService {self._name} has no URL yet, so nothing can be mirrored: look "
                "at its conditions"
            )
        document = MirroredRoute(
            name=self._shadow, hostname=host, use_case=self._champion.use_case, champion=champion,
            canary=canary, percent=_canary(held)[1] or 0, shadow=f"{self._shadow}-predictor",
            namespace=self._champion.namespace,
        ).document()  # fmt: skip
        if self._routes.get(self._shadow) is None:
            self._routes.create(document)
            self._routes.wait(self._shadow, 1, self._wait)
            return
        spec = document["spec"]
        generation = self._routes.patch(
            self._shadow, lambda there: {} if there["spec"] == spec else {"spec": spec}
        )
        if generation:
            self._routes.wait(self._shadow, generation, self._wait)

    def _arms(self, held: Manifest) -> tuple[str, str]:
        """Services of the champion and of the canary (empty: there is none)."""
        if self._knative:
            service = f"{self._name}-predictor"
            known = _canary(held)[1] is not None
            return (f"prev-{service}", f"latest-{service}") if known else (service, "")
        canaries = held["spec"].get("canary") or []
        predictors = [held["spec"]["predictor"], *(canary["predictor"] for canary in canaries)]
        names = [predictor.get("name") for predictor in predictors]
        parts = ["-".join(filter(None, (self._name, name, "predictor"))) for name in names]
        return parts[0], parts[1] if canaries else ""

    def _held(self) -> Manifest:
        held = self._services.get(self._name)
        if held is None:
            raise StateError(f"there is no InferenceService {self._name}; begin the release again")
        return held

    def _patch(
        self, name: str, change: Callable[[Manifest], Manifest], always: bool = False
    ) -> None:
        """Patch, and wait for what was changed; ``always``: for what is there too. A canary that
        crashes later is for the looks to judge."""
        generation = self._services.patch(name, change)
        if generation or always:
            self._services.wait(name, generation, self._wait)

    def _deployment(self, subject: str, version: str, role: str, name: str) -> Deployment:
        return replace(
            self._champion, subject=subject, version=version, role=role, name=name,
            storage_uri=f"{self._storage}/{self._champion.use_case}/{subject}",
        )  # fmt: skip

    def _predictor(self, challenger: Challenger) -> Manifest:
        """As the champion's, of another model; a canary in Standard mode has a name of its own,
        and takes no autoscaling fields."""
        deployment = self._deployment(
            challenger.subject, challenger.version, "canary", self._champion.name
        )
        predictor: Manifest = build(deployment)["spec"]["predictor"]
        if self._knative:
            return predictor
        own = {
            "name": f"m-{challenger.subject[:12]}",
            "annotations": {SUBJECT: challenger.subject},
            "labels": {_VERSION: _label(challenger.version)},
        }
        return {key: value for key, value in predictor.items() if key not in AUTOSCALING} | own


def _as_champion(predictor: Manifest) -> Manifest:
    """The canary's predictor, whose answers are recorded as the champion's from now on."""
    containers = [dict(container) for container in predictor["containers"]]
    words = containers[0]["args"]
    at = words.index("--role") if "--role" in words else len(words)
    containers[0]["args"] = [*words[:at], *words[at + 2 :]]
    return {**predictor, "containers": containers}


def _canary(held: Manifest) -> tuple[str, int | None]:
    """Subject and share of the challenger that the object holds; an empty text and None."""
    canaries = held["spec"].get("canary") or []
    if canaries:
        marks = canaries[0]["predictor"].get("annotations") or {}
        return str(marks.get(SUBJECT)), int(canaries[0]["trafficPercent"])
    percent = held["spec"]["predictor"].get("canaryTrafficPercent")
    return (_subject(held), int(percent)) if percent is not None else ("", None)


def _subject(held: Manifest) -> str:
    return str((held["metadata"].get("annotations") or {}).get(SUBJECT))


def _label(version: str) -> str:
    """As a label's value may be written."""
    return version.replace("+", "_")


def _marked(subject: str, label: str) -> Manifest:
    return {"metadata": {"annotations": {SUBJECT: subject}, "labels": {_VERSION: label}}}
