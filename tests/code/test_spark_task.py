"""The task on Spark, serialised as a cluster gets it, and that nothing else needs its plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core.tasks_pb2 import TaskTemplate
from google.protobuf.json_format import MessageToDict, Parse

ROOT = Path(__file__).parent.parent.parent
PLUGIN = Path(sys.prefix) / "spark"
PROGRAM = """
import json
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.tools.translator import get_serializable
from google.protobuf.json_format import MessageToJson
from tasks.spark import build_features_on_spark
image = ImageConfig(Image("default", "registry.example/airworthy", "v1"))
settings = SerializationSettings(image_config=image, project="p", domain="d", version="v")
spec = get_serializable({}, settings, build_features_on_spark)
print(MessageToJson(spec.template.to_flyte_idl()))
"""


@pytest.fixture(scope="module")
def template() -> Any:
    """The task's template, as the plugin makes it."""
    if not (PLUGIN / ".installed").exists():
        pytest.skip(f"no Spark plugin in {PLUGIN}: 'make test' installs it there")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(PLUGIN)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Parse(done.stdout, TaskTemplate())


def test_it_is_a_spark_job(template: Any) -> None:
    """A driver and executors, which the operator starts; the program is Flyte's entry point."""
    assert template.type == "spark"
    job = MessageToDict(template.custom)
    assert job["mainApplicationFile"].startswith("local://")
    assert int(job["sparkConf"]["spark.executor.instances"]) >= 2
    assert {"spark.executor.cores", "spark.executor.memory"} <= set(job["sparkConf"])


def test_it_takes_and_gives_what_the_task_on_one_machine_does(template: Any) -> None:
    """So a workflow may have either; it is cached, retried and bounded in time like any step."""
    from flytekit.core.interface import transform_interface_to_typed_interface

    from tasks.training_set import build_features

    plain = transform_interface_to_typed_interface(build_features.python_interface)
    assert plain is not None
    for side in ("inputs", "outputs"):
        ours = {n: v.type for n, v in getattr(template.interface, side).variables.items()}
        theirs = {n: v.type.to_flyte_idl() for n, v in getattr(plain, side).items()}
        assert ours == theirs
    assert template.metadata.discoverable
    assert template.metadata.retries.retries == 2
    assert template.metadata.timeout.ToSeconds() > 0
    assert template.container.resources.requests


def test_no_workflow_needs_the_plugin() -> None:
    """It is not installed where the tests run, and the workflows are packaged all the same."""
    done = subprocess.run(
        [sys.executable, "-c", "import flytekitplugins.spark"], capture_output=True, check=False
    )
    assert done.returncode == 1, "the plugin slows each start of flytekit: keep it out of .venv"
    files = [p for room in ("tasks", "workflows") for p in (ROOT / room).rglob("*.py")]
    naming = {p.name for p in files if "tasks.spark" in p.read_text()}
    assert naming == set()
