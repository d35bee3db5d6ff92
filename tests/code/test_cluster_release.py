"""Releases on a cluster as the commands drive them: against the same small API server as the target
itself (``test_cluster_target``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import ApiServer, api_server
from judging_helpers import state_release
from rollout_helpers import challenger
from serving_helpers import Running, certified_model, predict

from feature_repo.errors import PromotionError, StateError
from feature_repo.home import Home, crd_path
from feature_repo.registry import get_use_case
from serving.releases import write_current
from serving.rollout_plan import Plan
from tasks import rollout
from tasks.rollout_targets import target_of
from workflows import release as workflows


def kubeconfig(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As $KUBECONFIG, which the client reads when it is imported."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def configured(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Home, ApiServer]]:
    """A home whose challenger is what the server flies, and a kubeconfig. Names of Services lead to
    that server: it is the proxy that they are asked by."""
    home = Home(root=tmp_path / "home")
    flights = get_use_case("flights")
    folder, issued = certified_model(home, flights, threshold=0.3, version="1.0.0")
    state_release(home, folder, "flights")
    write_current(home, "flights", issued.subject, folder, "1.0.0")
    assert challenger(home, "1.2.3", 0.5).name == running.folder.name
    server = ApiServer(crd_path(), lag=1)
    with api_server(server) as address:
        cluster = {"name": "here", "cluster": {"server": address}}
        context = {"name": "here", "context": {"cluster": "here", "user": "nobody"}}
        users = [{"name": "nobody", "user": {}}]
        document = {
            "clusters": [cluster], "contexts": [context], "users": users, "current-context": "here"
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(json.dumps(document))
        kubeconfig(monkeypatch, tmp_path / "kubeconfig")
        monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{running.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr("urllib.request._opener", None)  # it keeps the proxies that it found
        yield home, server


def test_the_commands_drive_a_cluster(configured: tuple[Home, ApiServer], running: Running) -> None:
    _, server = configured
    predict(running.port, {"carrier": "UA"})
    plan = Plan(requests=1, pairs=0)
    told = workflows.rollout(
        model="flights", version="1.2.3", plan=plan, looks=1, pause_seconds=0.0, target="cluster"
    )
    assert "flights 1.2.3 is at 5 %" in told
    rule = server.kind("httproutes")["flights-shadow"]["spec"]["rules"][0]
    assert [ref["weight"] for ref in rule["backendRefs"]] == [95, 5]
    with pytest.raises(PromotionError, match="on target cluster"):
        workflows.rollout(model="flights", version="1.2.3", looks=1, pause_seconds=0.0)
    said = workflows.rollback(model="flights", reason="a trial")
    assert "1.0.0 answers" in said
    assert list(server.objects) == ["flights"]
    assert "canary" not in server.objects["flights"]["spec"]
    assert not server.kind("httproutes")


def test_a_challenger_whose_pods_are_gone_goes_back(
    configured: tuple[Home, ApiServer], running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pods tell no failure any more; the champion's tell nothing of it."""
    home, server = configured
    predict(running.port, {"carrier": "UA"})
    plan = Plan(requests=1, pairs=0)
    workflows.rollout(
        model="flights", version="1.2.3", plan=plan, looks=1, pause_seconds=0.0, target="cluster"
    )
    target, own = target_of(home, "flights", "cluster"), running.folder.name[:12]

    def pod(service: str) -> str:
        return f"http://127.0.0.1:{9 if own in service else running.port}"

    monkeypatch.setattr(target, "_address", pod)
    over, decision = rollout.look_once(home, "flights", target)
    assert (over.state.ended, decision.kind) == ("back", "back")
    assert "the challenger is down: http://127.0.0.1:9/metrics does not answer" in decision.words
    assert "canary" not in server.objects["flights"]["spec"]


def test_without_a_cluster_it_is_said_how_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig(monkeypatch, tmp_path / "none")
    with pytest.raises(StateError, match="name a kubeconfig"):
        target_of(Home(root=tmp_path), "flights", "cluster")
