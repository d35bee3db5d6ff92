"""A small Kubernetes API server for InferenceServices and HTTPRoutes: real HTTP, the CRDs' schemas.

No cluster can be started where the tests run. This one does what the real one does to an object:
it validates against the CRD (where a folder of CRDs is at hand), refuses a stale
``resourceVersion`` with 409, counts ``generation`` up with each change of the spec, and prunes
nothing. Its controller sees a generation ``lag`` reads later, as KServe's does some seconds later.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from feature_repo.errors import ManifestError
from serving.cluster_objects import merged
from serving.manifest_rules import check_schema


class ApiServer:
    """``requests``: method and body (of a deletion: the name) of what changed something, in order;
    ``held``: the objects by plural and name."""

    def __init__(self, crds: Path | None, lag: int = 3) -> None:
        self.held: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.meddle: list[str] = []  # names that another writer changes before the next patch
        self.ready = True
        self._crds, self._lag, self._reads = crds, lag, 0

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """The InferenceServices by name."""
        return self.kind("inferenceservices")

    def kind(self, plural: str) -> dict[str, dict[str, Any]]:
        """The objects of a kind by name."""
        return {name: held for (kind, name), held in self.held.items() if kind == plural}

    def get(self, key: tuple[str, str]) -> tuple[int, dict[str, Any]]:
        """The object with the status that the controller has reached."""
        if key not in self.held:
            return 404, {"reason": "NotFound"}
        held = self.held[key]
        self._reads += 1
        if self._reads >= self._lag:
            generation = {"observedGeneration": held["metadata"]["generation"]}
            if key[0] == "httproutes":
                accepted = {"type": "Accepted", "status": "True", **generation}
                held["status"] = {"parents": [{"conditions": [accepted]}]}
            else:
                conditions = [{"type": "Ready", "status": str(self.ready)}]
                url = f"http://{key[1]}-models.example.com"
                held["status"] = {"conditions": conditions, "url": url, **generation}
        return 200, held

    def create(self, plural: str, manifest: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A new object; one of that name is a conflict."""
        key = (plural, manifest["metadata"]["name"])
        if key in self.held:
            return 409, {"reason": "AlreadyExists"}
        self.requests.append(("POST", manifest))
        metadata = {**manifest["metadata"], "generation": 0}
        return self._store(key, {**manifest, "metadata": metadata})

    def delete(self, key: tuple[str, str]) -> tuple[int, dict[str, Any]]:
        """Gone at once."""
        if self.held.pop(key, None) is None:
            return 404, {"reason": "NotFound"}
        self.requests.append(("DELETE", "/".join(key)))
        return 200, {}

    def patch(self, key: tuple[str, str], patch: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A merge patch on the version that it names."""
        if key[1] in self.meddle:
            self.meddle.remove(key[1])
            labelled = {"metadata": {"labels": {"other": "writer"}}}
            self._store(key, merged(self.held[key], labelled))
        held = self.held[key]
        if patch["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"]:
            return 409, {"reason": "Conflict"}
        self.requests.append(("PATCH", patch))
        return self._store(key, merged(held, patch))

    def _store(self, key: tuple[str, str], manifest: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        plain = {key: value for key, value in manifest.items() if key != "status"}
        crd = self._crds / f"{key[0]}.yaml" if self._crds else None
        if crd is not None and crd.exists():
            try:
                check_schema(plain, crd)
            except ManifestError as exc:
                return 422, {"reason": "Invalid", "message": str(exc)}
        metadata = dict(manifest["metadata"])
        before = self.held.get(key, {})
        metadata["generation"] += before.get("spec") != manifest["spec"]
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        self.held[key] = {**manifest, "metadata": metadata}
        self._reads = 0
        return 200, self.held[key]


@contextmanager
def api_server(server: ApiServer) -> Iterator[str]:
    """Its address while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*server.get(self._key()))

        def do_POST(self) -> None:
            self._answer(*server.create(self.path.rpartition("/")[2], self._body()))

        def do_DELETE(self) -> None:
            self._answer(*server.delete(self._key()))

        def do_PATCH(self) -> None:
            assert self.headers["content-type"] == "application/merge-patch+json"
            self._answer(*server.patch(self._key(), self._body()))

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests read ``requests``."""

        def _key(self) -> tuple[str, str]:
            plural, name = self.path.split("/")[-2:]
            return plural, name

        def _body(self) -> dict[str, Any]:
            body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
            return body

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
