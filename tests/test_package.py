"""What ``pyflyte package`` serialises, offline, read back as protobufs."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from flyteidl.admin import launch_plan_pb2, task_pb2, workflow_pb2
from flyteidl.core import types_pb2
from google.protobuf.json_format import MessageToDict
from packaged import named, packaged, pytorchjob

from feature_repo.errors import ManifestError, TrainingError
from feature_repo.home import crd_path
from feature_repo.registry import get_use_case
from serving.manifest_rules import check_schema
from tasks.resources import training_pod

ROOT = Path(__file__).parent.parent
FLIGHTS = get_use_case("flights")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every packaged object by its name."""
    folder = tmp_path_factory.mktemp("package")
    return packaged(
        folder / "flyte.tgz",
        AIRWORTHY_NODES="2",
        AIRWORTHY_GPUS_PER_NODE="1",
        AIRWORTHY_TOLERATIONS="nvidia.com/gpu=present:NoSchedule",
    )


def our_tasks(package: dict[str, Any]) -> dict[str, Any]:
    """Templates of all tasks that are ours, by function; a branch node's is no task."""
    specs = [m.template for m in package.values() if isinstance(m, task_pb2.TaskSpec)]
    found = {t.id.name.rpartition(".")[2]: t for t in specs}
    assert len(found) == len(specs) > 20
    return found


def test_no_input_is_boolean(package: dict[str, Any]) -> None:
    """flytekit's command line gives a boolean input two options of one name, and warns of it."""
    for spec in package.values():
        if isinstance(spec, workflow_pb2.WorkflowSpec):
            for name, variable in spec.template.interface.inputs.variables.items():
                assert variable.type.simple != types_pb2.BOOLEAN, (spec.template.id.name, name)


def test_pytorchjob_for_two_nodes(package: dict[str, Any]) -> None:
    """Training on nodes is a PyTorchJob: two workers, a run policy, patient rendezvous, a GPU."""
    spec = named(package, task_pb2.TaskSpec, "train_on_nodes").template
    assert spec.type == "pytorch"
    custom = MessageToDict(spec.custom)
    assert custom["workerReplicas"]["replicas"] == 2
    assert custom["elasticConfig"]["nprocPerNode"] == 1
    assert custom["elasticConfig"]["minReplicas"] == 2
    assert custom["elasticConfig"]["maxReplicas"] == 2
    assert custom["runPolicy"]["backoffLimit"] == 2
    assert custom["runPolicy"]["activeDeadlineSeconds"] == 21_600
    pod = MessageToDict(spec.k8s_pod)["podSpec"]
    assert pod["containers"][0]["resources"]["requests"]["gpu"] == "1"  # Flyte's word for it
    (toleration,) = pod["tolerations"]
    assert (toleration["key"], toleration["effect"]) == ("nvidia.com/gpu", "NoSchedule")
    assert spec.extended_resources.HasField("shared_memory")


def test_the_pytorchjob_that_flyte_makes_of_it_fits_its_schema(package: dict[str, Any]) -> None:
    """As Flyte's plugin maps the task's fields; unknown fields are refused."""
    crds = crd_path()
    if crds is None:
        pytest.skip("AIRWORTHY_CRDS names no folder of CRDs")
    spec = named(package, task_pb2.TaskSpec, "train_on_nodes").template
    job = pytorchjob(spec)
    assert check_schema(job, crds / "pytorchjobs.yaml") == "v1"
    job["spec"]["elasticPolicy"]["maxReplicas"] = "two"
    with pytest.raises(ManifestError, match="elasticPolicy"):
        check_schema(job, crds / "pytorchjobs.yaml")


@pytest.mark.parametrize("told", ["gpu", "gpu:Never", ":NoSchedule", "a:NoSchedule,b"])
def test_a_toleration_that_is_none_is_refused(told: str) -> None:
    """At registration, with the way to write it."""
    with pytest.raises(TrainingError, match="write key=value:NoSchedule"):
        training_pod(told)


def test_local_trainings_are_elastic_tasks_of_one_node(package: dict[str, Any]) -> None:
    """One process and two ranks run in a pod of their own, without a PyTorchJob."""
    for name in ("train_one_process", "train_two_ranks"):
        spec = named(package, task_pb2.TaskSpec, name).template
        assert spec.type == "python-task"


def test_cached_steps_have_versions_retries_timeouts_and_resources(
    package: dict[str, Any],
) -> None:
    """What a console and a scheduler go by is set on each step."""
    cached = (
        "build_features", "build_training_set", "confirm_with_feast", "train_one_process",
        "export_model", "evaluate", "write_card", "ingest_flights", "ingest_weather",
    )  # fmt: skip
    for name in cached:
        metadata = named(package, task_pb2.TaskSpec, name).template.metadata
        assert metadata.discoverable, name
        assert len(metadata.discovery_version) >= 16, name
    for name, template in our_tasks(package).items():
        assert template.container.resources.requests or template.HasField("k8s_pod"), name
        assert template.metadata.timeout.ToSeconds() > 0, name
        # A source that broke its promise is no fresher a second later.
        least = 0 if name == "check_freshness" else 1
        assert template.metadata.retries.retries >= least, name
    never = ("register", "release", "certify", "conclude", "promote", "materialise_online")
    for name in never:
        template = named(package, task_pb2.TaskSpec, name).template
        assert not template.metadata.discoverable, name


def test_a_gate_node_asks_for_the_approver(package: dict[str, Any]) -> None:
    """It waits for a text after the looks, and the signed approval names whom it got."""
    nodes = {
        n.id: n for n in named(package, workflow_pb2.WorkflowSpec, "gated_rollout").template.nodes
    }
    (gate,) = (n for n in nodes.values() if n.HasField("gate_node"))
    assert gate.gate_node.signal.signal_id == "approver"
    assert gate.gate_node.signal.type.simple == types_pb2.STRING
    assert gate.metadata.timeout.ToSeconds() == timedelta(days=7).total_seconds()
    (signed,) = (
        n for n in nodes.values() if n.task_node.reference_id.name.endswith("approve_release")
    )
    approver = next(i.binding.promise for i in signed.inputs if i.var == "approver")
    assert approver.node_id == gate.id
    first, last = sorted(n for n in nodes if nodes[n].task_node.reference_id.name.endswith("watch"))
    assert list(gate.upstream_node_ids) == [first]
    assert signed.id in nodes[last].upstream_node_ids


def test_signing_tasks_ask_for_the_key(package: dict[str, Any]) -> None:
    """Whatever signs, or trusts what it signed, gets its key from a secret; no other task does."""
    signing = {
        "certify", "register", "promote", "promote_released", "release", "conclude",
        "revoke_certificate", "reinstate_certificate", "retire_model", "begin_release",
        "look_at_release", "roll_back_release", "approve_release",
    }  # fmt: skip
    trusting = {"evaluate", "score_requests", "audit_report", "clean_home", "compare_runs"}
    asking = set()
    for name, template in our_tasks(package).items():
        environment = {pair.key: pair.value for pair in template.container.env}
        if not template.security_context.secrets:
            assert "AIRWORTHY_SIGNING_KEY" not in environment, name
            continue
        asking.add(name)
        (secret,) = template.security_context.secrets
        assert (secret.group, secret.key) == ("airworthy", "signing-key")
        assert environment["AIRWORTHY_SIGNING_KEY"].endswith("/airworthy/signing-key")
    assert asking == signing | trusting


def test_launch_form_has_defaults_and_descriptions(package: dict[str, Any]) -> None:
    """The console's form for flights starts filled in, each field explained."""
    plan = named(package, launch_plan_pb2.LaunchPlan, "workflows.flights.flights")
    inputs = plan.spec.default_inputs.parameters
    assert set(inputs) == {
        "source", "training_start", "validation_start", "test_start", "test_end", "launcher",
        "config", "promotion", "resume_from", "checkpoint_steps",
    }  # fmt: skip
    assert not [name for name, parameter in inputs.items() if parameter.required]
    workflow = named(package, workflow_pb2.WorkflowSpec, "workflows.flights.flights")
    described = workflow.template.interface.inputs.variables
    assert all(variable.description for variable in described.values())


def test_lifecycle_picks_the_launcher_by_a_condition(package: dict[str, Any]) -> None:
    """The three trainings stand under one branch node; an unknown launcher fails by name."""
    workflow = named(package, workflow_pb2.WorkflowSpec, "workflows.lifecycle.lifecycle")
    branches = [n.branch_node for n in workflow.template.nodes if n.HasField("branch_node")]
    assert len(branches) == 1
    assert len(branches[0].if_else.other) == 2
    assert "one-process, two-ranks or nodes" in branches[0].if_else.error.message


def test_schedules_and_notifications(package: dict[str, Any]) -> None:
    """Features every night, the stream's step when requests begin to read a tick, training every
    week; the kick-off time is an input of each, and the source one that a launch may set."""
    nightly = named(package, launch_plan_pb2.LaunchPlan, "nightly_flights_features").spec
    assert nightly.entity_metadata.schedule.cron_schedule.schedule == "0 3 * * *"
    assert nightly.entity_metadata.schedule.kickoff_time_input_arg == "kickoff_time"
    workflow = named(package, workflow_pb2.WorkflowSpec, "refresh_flights_features").template
    steps = {n.task_node.reference_id.name.rpartition(".")[2]: n for n in workflow.nodes}
    order = (
        "build_features", "advance_features", "forget_versions", "clean_home", "check_freshness",
    )  # fmt: skip
    for before, after in pairwise(order):
        assert steps[before].id in steps[after].upstream_node_ids, (before, after)
    for name in ("build_features", "advance_features", "check_freshness"):
        bound = {b.var: b.binding.promise for b in steps[name].inputs}
        assert bound["as_of"].var == "kickoff_time"
    stream = named(package, launch_plan_pb2.LaunchPlan, "quarter_hourly_flights_features").spec
    minutes = FLIGHTS.lag // timedelta(minutes=1), FLIGHTS.tick // timedelta(minutes=1)
    told = ",".join(map(str, range(minutes[0], 60, minutes[1])))
    assert stream.entity_metadata.schedule.cron_schedule.schedule == f"{told} * * * *"
    assert stream.entity_metadata.schedule.kickoff_time_input_arg == "kickoff_time"
    assert [n.email.recipients_email for n in stream.entity_metadata.notifications]
    workflow = named(package, workflow_pb2.WorkflowSpec, "stream_flights_features").template
    (step,) = [n for n in workflow.nodes if "advance" in n.task_node.reference_id.name]
    assert {b.var: b.binding.promise.var for b in step.inputs}["as_of"] == "kickoff_time"
    cards = named(package, launch_plan_pb2.LaunchPlan, "nightly_flights_cards").spec
    assert cards.workflow_id.name == "workflows.features.cards"
    assert cards.entity_metadata.schedule.cron_schedule.schedule == "0 4 * * *"
    assert cards.fixed_inputs.literals["use_case"].scalar.primitive.string_value == "flights"
    weekly = named(package, launch_plan_pb2.LaunchPlan, "weekly_flights_training").spec
    schedule = weekly.entity_metadata.schedule
    assert schedule.cron_schedule.schedule == "0 5 * * 1"
    assert schedule.kickoff_time_input_arg == "kickoff_time"
    for plan in (nightly, weekly):
        source = plan.default_inputs.parameters["source"]
        assert not source.required
        assert not plan.fixed_inputs.literals
        assert source.default.scalar.primitive.string_value == "/data/flights"
    (notification,) = weekly.entity_metadata.notifications
    assert notification.email.recipients_email
    assert len(notification.phases) == 3


def test_what_the_schedules_read_is_mounted(package: dict[str, Any]) -> None:
    """The pod template has a volume, read only, where the scheduled launches look for data."""
    pod = yaml.safe_load((ROOT / "deploy/flyte/pod-template.yaml").read_text())["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert {m["name"] for m in mounts.values()} == {v["name"] for v in pod["volumes"]}
    for name in ("nightly_flights_features", "weekly_flights_training"):
        plan = named(package, launch_plan_pb2.LaunchPlan, name).spec
        source = plan.default_inputs.parameters["source"].default.scalar.primitive.string_value
        held = [mount for path, mount in mounts.items() if Path(path) in Path(source).parents]
        assert [mount.get("readOnly") for mount in held] == [True]
