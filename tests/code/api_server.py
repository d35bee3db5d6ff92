"""A small Kubernetes API server for InferenceServices: real HTTP, the CRD's schema, versions.

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
    """``requests``: method and body of what changed something, in order."""

    def __init__(self, crds: Path | None, lag: int = 3) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.meddle: list[str] = []  # names that another writer changes before the next patch
        self.ready = True
        self._crds, self._lag, self._reads = crds, lag, 0

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        """The object with the status that the controller has reached."""
        if name not in self.objects:
            return 404, {"reason": "NotFound"}
        held = self.objects[name]
        self._reads += 1
        if self._reads >= self._lag:
            held["status"] = {
                "observedGeneration": held["metadata"]["generation"],
                "conditions": [{"type": "Ready", "status": str(self.ready)}],
            }
        return 200, held

    def create(self, manifest: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A new object; one of that name is a conflict."""
        name = manifest["metadata"]["name"]
        if name in self.objects:
            return 409, {"reason": "AlreadyExists"}
        self.requests.append(("POST", manifest))
        return self._store({**manifest, "metadata": {**manifest["metadata"], "generation": 0}})

    def patch(self, name: str, patch: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A merge patch on the version that it names."""
        if name in self.meddle:
            self.meddle.remove(name)
            self._store(merged(self.objects[name], {"metadata": {"labels": {"other": "writer"}}}))
        held = self.objects[name]
        if patch["metadata"]["resourceVersion"] != held["metadata"]["resourceVersion"]:
            return 409, {"reason": "Conflict"}
        self.requests.append(("PATCH", patch))
        return self._store(merged(held, patch))

    def _store(self, manifest: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        plain = {key: value for key, value in manifest.items() if key != "status"}
        if self._crds is not None:
            try:
                check_schema(plain, self._crds / "inferenceservices.yaml")
            except ManifestError as exc:
                return 422, {"reason": "Invalid", "message": str(exc)}
        name, metadata = manifest["metadata"]["name"], dict(manifest["metadata"])
        before = self.objects.get(name, {})
        metadata["generation"] += before.get("spec") != manifest["spec"]
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", "0")) + 1)
        self.objects[name] = {**manifest, "metadata": metadata}
        self._reads = 0
        return 200, self.objects[name]


@contextmanager
def api_server(server: ApiServer) -> Iterator[str]:
    """Its address while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(*server.get(self.path.rpartition("/")[2]))

        def do_POST(self) -> None:
            self._answer(*server.create(self._body()))

        def do_PATCH(self) -> None:
            assert self.headers["content-type"] == "application/merge-patch+json"
            self._answer(*server.patch(self.path.rpartition("/")[2], self._body()))

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests read ``requests``."""

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
