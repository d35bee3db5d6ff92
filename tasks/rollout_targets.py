"""Which target a release happens on: this machine or a cluster, by its name."""

from __future__ import annotations

from dataclasses import replace

from feature_repo.errors import DeclarationError, StateError
from feature_repo.home import Home, cluster_namespace, crd_path, model_storage
from serving.capacity import read_scale
from serving.dsse import signing_key
from serving.local_target import LocalTarget
from serving.releases import read_current
from serving.target import Target
from tasks.rollout_store import load

LOCAL, CLUSTER = "local", "cluster"


def target_of(home: Home, use_case: str, name: str, port: int = 0) -> Target:
    """``local``: processes of this machine, behind a proxy at ``port`` (0: where it listens
    already). ``cluster``: the InferenceService of the use case, in the cluster that kubectl would
    reach from here, or whose pod this is.

    Raises:
        DeclarationError: there is no such target.
        StateError: no cluster is configured, or there is no champion.
    """
    if name == LOCAL:
        development = signing_key(home).development
        return LocalTarget(home, use_case, port, development=development)
    if name == CLUSTER:
        return _cluster(home, use_case)
    raise DeclarationError(f"target {name!r}: it is {LOCAL} or {CLUSTER}")


def target_under_way(home: Home, use_case: str) -> Target:
    """That of the latest release; of none, this machine. Where its document is damaged, what runs
    here tells."""
    try:
        held = load(home, use_case)
        name = held.target if held else LOCAL
    except StateError:
        runs_here = (home.root / "targets" / use_case / "local.json").exists()
        name = LOCAL if runs_here else CLUSTER
    return target_of(home, use_case, name)


def _cluster(home: Home, use_case: str) -> Target:
    from kubernetes import config
    from kubernetes.client import ApiClient

    from serving.cluster_objects import ROUTE, SERVICE, ClusterObjects
    from serving.cluster_target import ClusterTarget
    from serving.manifest import configured

    try:
        try:
            config.load_incluster_config()
        except config.ConfigException:
            config.load_kube_config()
    except config.ConfigException as exc:
        raise StateError(
            f"no cluster is configured ({exc}): name a kubeconfig by $KUBECONFIG, or run in a pod "
            "whose service account may write InferenceServices and HTTPRoutes"
        ) from exc
    directory, version = read_current(home, use_case)
    namespace, client = cluster_namespace(), ApiClient()
    services, routes = (
        ClusterObjects(client, kind, namespace, crd_path()) for kind in (SERVICE, ROUTE)
    )
    champion = configured(use_case, directory.name, version)
    champion = replace(champion, scale=read_scale(home, use_case))
    return ClusterTarget(
        services, routes, champion, model_storage(), lambda name: f"http://{name}.{namespace}.svc"
    )
