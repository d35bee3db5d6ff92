"""What ``pyflyte package`` writes, read back as protobufs, and what Flyte makes of a training."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from flyteidl.admin import launch_plan_pb2, task_pb2, workflow_pb2
from google.protobuf.json_format import MessageToDict

ROOT = Path(__file__).parent.parent
KINDS = {"_1.pb": task_pb2.TaskSpec, "_2.pb": workflow_pb2.WorkflowSpec}
KINDS["_3.pb"] = launch_plan_pb2.LaunchPlan


def packaged(archive: Path, **environment: str) -> dict[str, Any]:
    """Every packaged object by its name."""
    command = [
        str(Path(sys.executable).parent / "pyflyte"),
        *("--pkgs", "workflows", "package", "--image", "registry.example/airworthy:v1"),
        *("--output", str(archive), "--force", "--source", str(ROOT)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    objects: dict[str, Any] = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            kind = next((k for suffix, k in KINDS.items() if member.name.endswith(suffix)), None)
            content = tar.extractfile(member)
            if kind is None or content is None:
                continue
            message = kind()
            message.ParseFromString(content.read())
            objects[member.name] = message
    return objects


def named(package: dict[str, Any], kind: type, name: str) -> Any:
    """The one object of a kind of this name, in whatever module it is."""
    identified: list[Any] = [m for m in package.values() if isinstance(m, kind)]
    found = [m for m in identified if f".{_id(m).name}".endswith(f".{name}")]
    assert len(found) == 1, (name, len(found))
    return found[0]


def _id(message: Any) -> Any:
    return message.id if isinstance(message, launch_plan_pb2.LaunchPlan) else message.template.id


def pytorchjob(spec: Any) -> dict[str, Any]:
    """What Flyte's pytorch plugin makes of a task: workers alone where it is elastic
    (flyteplugins/go/tasks/plugins/k8s/kfoperators/pytorch)."""
    custom = MessageToDict(spec.custom)
    workers, run, elastic = (custom[k] for k in ("workerReplicas", "runPolicy", "elasticConfig"))
    pod = MessageToDict(spec.k8s_pod)["podSpec"] | {"restartPolicy": "Never"}
    container = pod["containers"][0]
    container["name"] = "pytorch"
    for told in container["resources"].values():
        told |= {"nvidia.com/gpu": told.pop("gpu")} if "gpu" in told else {}
    policies = {"CLEANPOD_POLICY_RUNNING": "Running", "CLEANPOD_POLICY_ALL": "All"}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "train"},
        "spec": {
            "runPolicy": {
                "cleanPodPolicy": policies[run["cleanPodPolicy"]],
                "ttlSecondsAfterFinished": int(run["ttlSecondsAfterFinished"]),
                "activeDeadlineSeconds": int(run["activeDeadlineSeconds"]),
                "backoffLimit": int(run["backoffLimit"]),
            },
            "elasticPolicy": {
                "rdzvBackend": elastic["rdzvBackend"],
                "minReplicas": int(elastic["minReplicas"]),
                "maxReplicas": int(elastic["maxReplicas"]),
                "nProcPerNode": int(elastic["nprocPerNode"]),
                "maxRestarts": int(elastic.get("maxRestarts", 0)),
            },
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": int(workers["replicas"]), "template": {"spec": pod}}
            },
        },
    }
