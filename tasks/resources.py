"""What is fixed when the tasks are registered: images, nodes, GPUs, tolerations, pod volumes.

``pyflyte register`` and ``package`` read these variables once; a launch cannot change them.
"""

from __future__ import annotations

import os
from typing import Any

from flytekit import PodTemplate, Resources, Secret

from feature_repo.errors import TrainingError

NODES = int(os.environ.get("AIRWORTHY_NODES", "2"))
RANKS_PER_NODE = int(os.environ.get("AIRWORTHY_RANKS_PER_NODE", "1"))
GPUS_PER_NODE = os.environ.get("AIRWORTHY_GPUS_PER_NODE", "")

TOLERATIONS = os.environ.get("AIRWORTHY_TOLERATIONS", "")

SMALL = Resources(cpu="1", mem="2Gi")
DATA = Resources(cpu="2", mem="6Gi")
TRAINING = Resources(cpu="2", mem="6Gi", gpu=GPUS_PER_NODE or None)

# A waiting OpenMP thread must not spin on the core that another one needs. OpenMP reads this when
# it is loaded: a pod has it from its task, a local training's processes from ``open_state``.
WAITING_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}

# Tasks that sign (certificates, releases, the ledger's head): Flyte mounts the key from a secret.
# Both apply in a pod only; a local run makes and names a development key.
SIGNING_KEY = Secret(group="airworthy", key="signing-key", mount_requirement=Secret.MountType.FILE)
SIGNING_ENVIRONMENT = {"AIRWORTHY_SIGNING_KEY": "/etc/flyte/secrets/airworthy/signing-key"}


def training_pod(tolerations: str) -> PodTemplate | None:
    """Pods that may run where others may not: ``key=value:Effect`` or ``key:Effect``, with commas
    between them, as kubectl writes taints; None for none.

    Raises:
        TrainingError: a toleration is not written so.
    """
    if not tolerations:
        return None
    from kubernetes.client import V1PodSpec

    told = [_toleration(part.strip()) for part in tolerations.split(",")]
    return PodTemplate(pod_spec=V1PodSpec(containers=[], tolerations=told))


def _toleration(told: str) -> Any:
    from kubernetes.client import V1Toleration

    key, _, effect = told.rpartition(":")
    if not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise TrainingError(
            f"AIRWORTHY_TOLERATIONS: {told!r} is no toleration; write key=value:NoSchedule or "
            "key:NoSchedule (or PreferNoSchedule, NoExecute), as `kubectl taint` does"
        )
    name, equal, value = key.partition("=")
    if not equal:
        return V1Toleration(key=name, operator="Exists", effect=effect)
    return V1Toleration(key=name, operator="Equal", value=value, effect=effect)
