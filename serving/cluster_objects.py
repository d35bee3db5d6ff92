"""Objects of one kind in one namespace: read, create or patch, wait, delete.

Every change is checked before it is sent, by the webhook's rules, ours and the CRD, and carries
the version that it was made from, so that two writers never overwrite each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.errors import StateError
from serving import manifest_rules, route

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Manifest = dict[str, Any]
_CONFLICTS = 5
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What the API server calls it, the condition that says that it took effect, and what an
    object of it must satisfy (given the folder of CRDs)."""

    name: str
    group: str
    version: str
    plural: str
    condition: str
    check: Callable[[Manifest, Path | None], object]


SERVICE = Kind(
    name="InferenceService", group="serving.kserve.io", version="v1beta1",
    plural="inferenceservices", condition="Ready", check=manifest_rules.validate,
)  # fmt: skip
ROUTE = Kind(
    name="HTTPRoute", group="gateway.networking.k8s.io", version="v1", plural="httproutes",
    condition="Accepted", check=route.validate,
)  # fmt: skip


class ClusterObjects:
    """``client`` reaches the API server; ``crds``: the folder of CRDs, where one is at hand."""

    def __init__(self, client: ApiClient, kind: Kind, namespace: str, crds: Path | None) -> None:
        from kubernetes.client import CustomObjectsApi

        self._api = CustomObjectsApi(client)
        self._kind, self._crds = kind, crds
        self._place = (kind.group, kind.version, namespace, kind.plural)

    def get(self, name: str) -> Manifest | None:
        """The object, or None where there is none.

        Raises:
            StateError: the API server does not answer.
        """
        from kubernetes.client import ApiException

        try:
            found: Manifest = self._api.get_namespaced_custom_object(*self._place, name)
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

        self._kind.check(manifest, self._crds)
        try:
            self._api.create_namespaced_custom_object(*self._place, manifest)
        except ApiException as exc:
            if exc.status != 409:
                raise self._refused(manifest["metadata"]["name"], exc) from exc

    def patch(self, name: str, change: Callable[[Manifest], Manifest]) -> int:
        """Apply a merge patch that ``change`` makes from the object as it is (an empty one:
        nothing is sent); the object's generation after it, 0 where nothing was sent. Made again
        where another writer came between.

        Raises:
            ManifestError: the object would break a rule or the CRD.
            StateError: there is no such object, or the API server refused the patch.
        """
        from kubernetes.client import ApiException

        for _ in range(_CONFLICTS):
            held = self.get(name)
            if held is None:
                raise StateError(f"there is no {self._kind.name} {name}; create it first")
            patch = change(held)
            if not patch:
                return 0
            self._kind.check(_plain(merged(held, patch)), self._crds)
            version = held["metadata"]["resourceVersion"]
            patch.setdefault("metadata", {})["resourceVersion"] = version
            try:
                made = self._api.patch_namespaced_custom_object(
                    *self._place, name, patch, _content_type=_MERGE
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
            seen, told = _condition(self.get(name) or {}, self._kind.condition)
            said = str(told) if told else said
            if seen >= generation and told.get("status") == "True":
                return
            time.sleep(min(1.0, seconds / 20))
        raise StateError(
            f"{self._kind.name} {name} generation {generation} is not ready after "
            f"{seconds:.0f} s: {said}"
        )

    def delete(self, name: str) -> None:
        """Delete an object; nothing where there is none.

        Raises:
            StateError: the API server refused it.
        """
        from kubernetes.client import ApiException

        try:
            self._api.delete_namespaced_custom_object(*self._place, name)
        except ApiException as exc:
            if exc.status != 404:
                raise self._refused(name, exc) from exc

    def _refused(self, name: str, exc: Exception) -> StateError:
        return StateError(
            f"the API server refused {self._kind.name} {self._place[2]}/{name}: {exc}; see its "
            "events, and whether this account may write it"
        )


def _condition(held: Manifest, name: str) -> tuple[int, Manifest]:
    """The generation that the controller has seen, and the condition of that name: of the object
    (KServe), or of each parent (Gateway API; all of them are one gateway here)."""
    status = held.get("status") or {}
    parents = [c for parent in status.get("parents") or [] for c in parent.get("conditions") or []]
    for told in (*(status.get("conditions") or []), *parents):
        if told.get("type") == name:
            seen = status.get("observedGeneration") or told.get("observedGeneration") or 0
            return int(seen), told
    return 0, {}


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
