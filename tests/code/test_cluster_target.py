"""The cluster target against a small API server of our own (``api_server``): no cluster can be
started here, so pods, routing and KServe's controller are not shown by these tests; what is sent,
in which order, and what is waited for is. The challenger's pod is a real server process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer, api_server
from kubernetes.client import ApiClient, Configuration
from serving_helpers import Running, predict

from feature_repo.errors import ManifestError, StateError
from feature_repo.home import crd_path
from serving.cluster_objects import ROUTE, SERVICE, ClusterObjects
from serving.cluster_target import ClusterTarget
from serving.manifest import Deployment, example
from serving.manifest_rules import SUBJECT
from serving.target import Challenger

STORAGE = "s3://models"


class Cluster:
    """A target of one mode, and the objects behind it."""

    def __init__(self, server: ApiServer, address: str, mode: str, running: Running) -> None:
        self.server, self.challenger = (
            server,
            Challenger(model_dir=running.folder, subject=running.folder.name, version="1.2.3"),
        )
        client = ApiClient(Configuration(host=address))
        services, routes = (
            ClusterObjects(client, kind, "models", crd_path()) for kind in (SERVICE, ROUTE)
        )
        self.asked: list[str] = []
        self.standard = mode == "Standard"

        def pod(service: str) -> str:
            self.asked.append(service)
            return f"http://127.0.0.1:{running.port}"

        champion: Deployment = replace(example(), deployment_mode=mode)
        self.services = services
        self.target = ClusterTarget(services, routes, champion, STORAGE, pod, wait_seconds=3)

    @property
    def spec(self) -> Any:
        """As the API server has it."""
        return self.server.objects["flights"]["spec"]


@pytest.fixture(params=["Standard", "Knative"])
def cluster(request: pytest.FixtureRequest, running: Running) -> Iterator[Cluster]:
    server = ApiServer(crd_path())
    with api_server(server) as address:
        yield Cluster(server, address, request.param, running)


def share(cluster: Cluster) -> int | None:
    """The challenger's percent."""
    canaries = cluster.spec.get("canary")
    if canaries:
        return int(canaries[0]["trafficPercent"])
    percent = cluster.spec["predictor"].get("canaryTrafficPercent")
    return None if percent is None else int(percent)


def storage(predictor: dict[str, Any]) -> str:
    environment = predictor["containers"][0]["env"]
    return str(next(e["value"] for e in environment if e["name"] == "STORAGE_URI"))


def test_a_release_goes_up_and_is_promoted_in_patches_alone(cluster: Cluster) -> None:
    target = cluster.target
    target.begin(cluster.challenger)
    assert share(cluster) == 0
    for percent in (5, 50, 100):
        target.weights(percent)
        assert share(cluster) == percent
    target.promote()
    assert share(cluster) is None
    assert storage(cluster.spec["predictor"]) == f"{STORAGE}/flights/{cluster.challenger.subject}"
    held = cluster.server.objects["flights"]["metadata"]
    assert held["annotations"][SUBJECT] == cluster.challenger.subject
    assert [method for method, _ in cluster.server.requests] == ["POST"] + ["PATCH"] * 5
    assert cluster.spec["predictor"]["maxReplicas"] == 1  # as the champion's was
    assert "--role" not in cluster.spec["predictor"]["containers"][0]["args"]
    assert cluster.target.observe(0.25).canary.requests == 0
    assert cluster.asked[-1].startswith("flights-m-" if cluster.standard else "flights-predictor")


def test_each_call_may_be_repeated(cluster: Cluster) -> None:
    target = cluster.target
    for _ in range(2):
        target.begin(cluster.challenger)
    target.weights(25)
    target.weights(25)
    target.begin(cluster.challenger)
    assert share(cluster) == 25
    target.rollback()
    sent = len(cluster.server.requests)
    target.rollback()
    assert len(cluster.server.requests) == sent
    assert share(cluster) in (None, 0)


def test_a_standard_canary_is_a_predictor_of_its_own(running: Running) -> None:
    server = ApiServer(crd_path())
    with api_server(server) as address:
        cluster = Cluster(server, address, "Standard", running)
        cluster.target.begin(cluster.challenger)
        champion, canary = cluster.spec["predictor"], cluster.spec["canary"][0]["predictor"]
        assert canary["name"] == f"m-{cluster.challenger.subject[:12]}"
        assert canary["minReplicas"] == 1  # at 0 % KServe would give it no pod
        assert "maxReplicas" not in canary
        assert cluster.asked == [f"flights-{canary['name']}-predictor"]
        assert storage(champion) != storage(canary)
        assert canary["containers"][0]["args"][-2:] == ["--role", "canary"]
        cluster.target.rollback()
        assert cluster.spec["predictor"] == champion


def test_another_writer_between_read_and_patch_is_not_overwritten(cluster: Cluster) -> None:
    cluster.target.begin(cluster.challenger)
    cluster.server.meddle.append("flights")
    cluster.target.weights(5)
    assert share(cluster) == 5
    assert cluster.server.objects["flights"]["metadata"]["labels"]["other"] == "writer"


def test_the_status_of_an_older_generation_is_not_believed(cluster: Cluster) -> None:
    cluster.target.begin(cluster.challenger)
    cluster.server.ready = False
    with pytest.raises(StateError, match=r"generation \d is not ready"):
        cluster.target.weights(5)


def test_a_pod_of_another_model_gets_no_traffic(cluster: Cluster) -> None:
    other = Challenger(model_dir=Path("/nowhere"), subject="f" * 64, version="9.9.9")
    with pytest.raises(StateError, match="not the subject f"):
        cluster.target.begin(other)
    assert share(cluster) == 0


def test_what_breaks_a_rule_is_never_sent(cluster: Cluster) -> None:
    cluster.target.begin(cluster.challenger)
    sent = len(cluster.server.requests)
    with pytest.raises(ManifestError, match="between 0 and 100"):
        cluster.target.weights(150)
    assert len(cluster.server.requests) == sent


def test_arms_are_counted_from_their_own_metrics(cluster: Cluster, running: Running) -> None:
    cluster.target.begin(cluster.challenger)
    before = cluster.target.observe(0.25).canary
    assert predict(running.port, {"carrier": "UA"}).status == 422
    after = cluster.target.observe(0.25).canary.since(before)
    assert (after.requests, after.failed) == (1, 1)


def test_a_shadow_is_mirrored_to_while_a_release_is_under_way(running: Running) -> None:
    server = ApiServer(crd_path())
    with api_server(server) as address:
        cluster = Cluster(server, address, "Standard", running)
        target = cluster.target
        target.begin(cluster.challenger)
        for _ in range(2):  # each call may be repeated
            target.shadow(True)
            target.weights(0)
        made = [(method, body["kind"]) for method, body in server.requests if method == "POST"]
        assert made == [
            ("POST", "InferenceService"), ("POST", "InferenceService"), ("POST", "HTTPRoute")
        ]  # fmt: skip
        shadow = server.objects["flights-shadow"]["spec"]["predictor"]
        assert shadow["containers"][0]["args"][-2:] == ["--role", "shadow"]
        assert storage(shadow).endswith(cluster.challenger.subject)
        target.weights(25)
        spec = server.kind("httproutes")["flights-shadow"]["spec"]
        assert spec["hostnames"] == ["flights-models.example.com"]
        (rule,) = spec["rules"]
        mirror = rule["filters"][0]["requestMirror"]["backendRef"]["name"]
        assert mirror == "flights-shadow-predictor"
        shares = {ref["name"]: ref["weight"] for ref in rule["backendRefs"]}
        own = f"flights-m-{cluster.challenger.subject[:12]}-predictor"
        assert shares == {"flights-predictor": 75, own: 25}
        assert target.observe(0.25).shadow.requests > 0
        sent = len(server.requests)
        target.rollback()
        last = [body if method == "DELETE" else method for method, body in server.requests[sent:]]
        assert last == ["httproutes/flights-shadow", "PATCH", "inferenceservices/flights-shadow"]
        target.rollback()
        assert len(server.requests) == sent + 3
        assert list(server.objects) == ["flights"]


def test_a_shadow_of_another_model_gets_no_copy(running: Running) -> None:
    """The one that a killed release left is patched, and asked who it is."""
    server = ApiServer(crd_path())
    with api_server(server) as address:
        cluster = Cluster(server, address, "Standard", running)
        cluster.target.begin(cluster.challenger)
        cluster.target.shadow(True)
        name = ("inferenceservices", "flights-shadow")
        server.held.pop(("httproutes", "flights-shadow"))
        server.held[name]["metadata"]["annotations"][SUBJECT] = "f" * 64
        cluster.target.shadow(True)
        marked = server.held[name]["metadata"]["annotations"][SUBJECT]
        assert marked == cluster.challenger.subject
        assert "flights-shadow" in server.kind("httproutes")
        cluster.target.shadow(False)
        assert not server.kind("httproutes")
