"""InferenceServices of one namespace: read, create or patch, wait; never deleted first.

Every change is checked before it is sent, by the webhook's rules, ours and the CRD, and carries
the version that it was made from, so that two writers never overwrite each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.errors import StateError
from serving.manifest_rules import validate

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Manifest = dict[str, Any]
_KIND = ("serving.kserve.io", "v1beta1")
_CONFLICTS = 5
_MERGE = "application/merge-patch+json"


class InferenceServices:
    """``client`` reaches the API server; ``crds``: the folder of CRDs, where one is at hand."""

    def __init__(self, client: ApiClient, namespace: str, crds: Path | None) -> None:
        from kubernetes.client import CustomObjectsApi

        self._api = CustomObjectsApi(client)
        self._namespace, self._crds = namespace, crds

    def get(self, name: str) -> Manifest | None:
        """The object, or None where there is none.

        Raises:
            StateError: the API server does not answer.
        """
        from kubernetes.client import ApiException

        try:
            found: Manifest = self._api.get_namespaced_custom_object(
                *_KIND, self._namespace, "inferenceservices", name
            )
        except ApiException as exc:
            if exc.status == 404:
                return None
            raise self._refused(name, exc) from exc
        return found

    def create(self, manifest: Manifest) -> None:
        """Create an object that is not there; one that is, stays.

        Raises:
            ManifestError: it breaks a rule or the CRD.
            StateError: the API server refused it.
        """
        from kubernetes.client import ApiException

        validate(manifest, self._crds)
        try:
            self._api.create_namespaced_custom_object(
                *_KIND, self._namespace, "inferenceservices", manifest
            )
        except ApiException as exc:
            if exc.status != 409:
                raise self._refused(manifest["metadata"]["name"], exc) from exc

    def patch(self, name: str, change: Callable[[Manifest], Manifest]) -> int:
        """Apply a merge patch that ``change`` makes from the object as it is (an empty one:
        nothing is sent); the object's generation after it. Made again where another writer came
        between.

        Raises:
            ManifestError: the object would break a rule or the CRD.
            StateError: there is no such object, or the API server refused the patch.
        """
        from kubernetes.client import ApiException

        for _ in range(_CONFLICTS):
            held = self.get(name)
            if held is None:
                raise StateError(
                    f"no InferenceService {name} in {self._namespace}; create it first"
                )
            patch = change(held)
            if not patch:
                return int(held["metadata"]["generation"])
            validate(_plain(merged(held, patch)), self._crds)
            version = held["metadata"]["resourceVersion"]
            patch.setdefault("metadata", {})["resourceVersion"] = version
            try:
                made = self._api.patch_namespaced_custom_object(
                    *_KIND, self._namespace, "inferenceservices", name, patch, _content_type=_MERGE
                )
                return int(made["metadata"]["generation"])
            except ApiException as exc:
                if exc.status != 409:
                    raise self._refused(name, exc) from exc
        raise StateError(
            f"{name} was changed by others {_CONFLICTS} times in a row; find out by whom"
        )

    def wait(self, name: str, generation: int, seconds: float) -> None:
        """Wait until the controller has seen this generation and says that it is ready: before
        that, the status is the old one's.

        Raises:
            StateError: not within ``seconds``; the last condition is in the message.
        """
        end, said = time.monotonic() + seconds, "no condition"
        while time.monotonic() < end:
            status = (self.get(name) or {}).get("status") or {}
            ready = [c for c in status.get("conditions") or [] if c.get("type") == "Ready"]
            said = str(ready[0]) if ready else said
            seen = int(status.get("observedGeneration") or 0) >= generation
            if seen and ready and ready[0].get("status") == "True":
                return
            time.sleep(min(1.0, seconds / 20))
        raise StateError(
            f"{name} generation {generation} is not ready after {seconds:.0f} s: {said}"
        )

    def _refused(self, name: str, exc: Exception) -> StateError:
        return StateError(
            f"the API server refused InferenceService {self._namespace}/{name}: {exc}; see its "
            "events, and whether this account may write it"
        )


def merged(held: Manifest, patch: Manifest) -> Manifest:
    """JSON merge patch, RFC 7396: null takes a key away, a list is replaced."""
    made = dict(held)
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            below = made.get(key)
            made[key] = merged(below if isinstance(below, dict) else {}, value)
        else:
            made[key] = value
    return made


def _plain(manifest: Manifest) -> Manifest:
    """Without what the API server adds, which the strict schema does not know."""
    return {key: value for key, value in manifest.items() if key != "status"}
