"""Manifests: typed, complete, and refused where the webhook or our own rules would refuse them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_repo.errors import ManifestError
from feature_repo.home import crd_path
from serving.capacity import Scale
from serving.manifest import build, example
from serving.manifest_rules import check_rules, validate

Manifest = dict[str, Any]
GOLDEN = Path(__file__).parents[2] / "deploy" / "kserve" / "flights.yaml"
CRDS = crd_path()
MODE = "serving.kserve.io/deploymentMode"


@pytest.fixture(scope="module")
def good() -> Manifest:
    """The example's manifest."""
    return build(example())


def test_the_golden_file_is_what_the_command_writes(tmp_path: Path) -> None:
    path = tmp_path / "flights.yaml"
    command = [sys.executable, "-m", "serving.manifest", str(path)]
    subprocess.run(command, check=True, env=os.environ.copy())
    assert path.read_text() == GOLDEN.read_text(), "run 'make manifests' and look at the diff"


def test_it_is_in_kubernetes_names(good: Manifest) -> None:
    """kubernetes 37 writes snake_case and nulls."""
    assert good["apiVersion"] == "serving.kserve.io/v1beta1"
    assert good["kind"] == "InferenceService"
    assert "null" not in yaml.safe_dump(good)
    assert "_" not in "".join(keys(good))


def keys(value: Any) -> list[str]:
    """Every key of a document."""
    if isinstance(value, list):
        return [k for item in value for k in keys(item)]
    if isinstance(value, dict):
        ours = {"STORAGE_URI", "AIRWORTHY_HOME", "AIRWORTHY_TRUSTED_KEYS"}
        return [k for key, item in value.items() for k in (key, *keys(item)) if k not in ours]
    return []


def test_the_pod_verifies_with_keys_of_a_secret_and_no_development_key(good: Manifest) -> None:
    predictor = good["spec"]["predictor"]
    (container,) = predictor["containers"]
    environment = {e["name"]: e.get("value") for e in container["env"]}
    assert environment["AIRWORTHY_ONLINE_STORE"] is None  # a secret's, where there is one
    volumes = {v["name"]: v for v in predictor["volumes"]}
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert mounts[environment["AIRWORTHY_TRUSTED_KEYS"]]["readOnly"] is True
    assert volumes["trusted-keys"]["secret"]["secretName"] == "airworthy-trusted-keys"
    assert "development" not in yaml.safe_dump(good)
    assert example().subject in environment["STORAGE_URI"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/flights/ready"


@pytest.mark.skipif(CRDS is None, reason="AIRWORTHY_CRDS names no folder of CRDs")
def test_it_satisfies_the_crd_and_a_misspelt_field_does_not(good: Manifest) -> None:
    checks = validate(good, CRDS)
    assert [check.done for check in checks] == [True, True]
    for path in (("spec", "predictor"), ("spec", "predictor", "containers", 0)):
        wrong = deepcopy(good)
        place: Any = wrong
        for step in path:
            place = place[step]
        place["minreplicas"] = 1
        with pytest.raises(ManifestError, match=r"spec\.predictor.*minreplicas"):
            validate(wrong, CRDS)


def test_without_crds_the_check_says_that_it_was_skipped(good: Manifest) -> None:
    rules, schema = validate(good, None)
    assert rules.done
    assert not schema.done
    assert "skipped" in schema.note


def test_a_folder_without_the_crd_is_an_error(good: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="AIRWORTHY_CRDS"):
        validate(good, tmp_path)


def edit(path: str, value: Any) -> Callable[[Manifest], None]:
    """Set a path of parts joined by | (numbers index lists); ``...`` as value deletes."""

    def apply(manifest: Manifest) -> None:
        *steps, last = [int(p) if p.isdigit() else p for p in path.split("|")]
        place: Any = manifest
        for step in steps:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return apply


def canary(name: str | None, percent: int, **fields: Any) -> dict[str, Any]:
    """A canary of Standard mode."""
    named = {} if name is None else {"name": name}
    framework = {"model": {"modelFormat": {"name": "onnx"}}}
    return {"trafficPercent": percent, "predictor": {**named, **framework, **fields}}


CONTAINER = "spec|predictor|containers|0"
WRONG: dict[str, tuple[str, Any, str]] = {
    "no apiVersion": ("apiVersion", ..., "apiVersion"),
    "kind": ("kind", "Deployment", "kind"),
    "name with capitals": ("metadata|name", "Flights", "metadata.name"),
    "name with a digit first": ("metadata|name", "1flights", "metadata.name"),
    "no deployment mode": (f"metadata|annotations|{MODE}", ..., "deploymentMode"),
    "no subject": ("metadata|annotations|airworthy.dev/subject", ..., "subject digest"),
    "no predictor": ("spec|predictor|containers", ..., "exactly one"),
    "two predictors": ("spec|predictor|model", {"modelFormat": {"name": "onnx"}}, "exactly one"),
    "container's name": (f"{CONTAINER}|name", "main", "kserve-container"),
    "replicas": ("spec|predictor|minReplicas", 3, "minReplicas"),
    "negative replicas": ("spec|predictor|minReplicas", -1, "minReplicas"),
    "storage scheme": (f"{CONTAINER}|env|0|value", f"ftp://x/{'0' * 64}", "scheme"),
    "storage without digest": (f"{CONTAINER}|env|0|value", "s3://models/flights", "digest"),
    "development argument": (f"{CONTAINER}|args", ["--allow-development-key"], "development key"),
    "development variable": (
        f"{CONTAINER}|env|1", {"name": "AIRWORTHY_ALLOW_DEVELOPMENT_KEY", "value": "1"},
        "development key",
    ),
    "no trusted keys": (f"{CONTAINER}|env|2", {"name": "X", "value": "1"}, "TRUSTED_KEYS"),
    "keys beside the model": (f"{CONTAINER}|env|2|value", "/mnt/models/keys", "TRUSTED_KEYS"),
    "another command": (f"{CONTAINER}|command", ["serve"], "must run python -m serving.server"),
    "the image's command": (f"{CONTAINER}|command", ..., "must run python -m serving.server"),
    "another folder": (f"{CONTAINER}|args|3", "/mnt/other", "--model-dir must be /mnt/models"),
    "a folder more": (f"{CONTAINER}|args|5", "--model-dir=/x", "--model-dir must be /mnt/models"),
    "what runs before": (
        "spec|predictor|initContainers", [{"name": "x", "image": "y"}], "could change the model",
    ),
    "no storage": (f"{CONTAINER}|env|0", {"name": "X", "value": "1"}, "STORAGE_URI must say"),
    "storage of a secret": (f"{CONTAINER}|env|0", {"name": "STORAGE_URI", "valueFrom": {}}, "None"),
    "variables from elsewhere": (f"{CONTAINER}|envFrom", [{"secretRef": {"name": "x"}}], "envFrom"),
    "storage beside": ("spec|predictor|storageUris", [{"uri": "s3://x"}], "storageUris"),
    "keys by two slashes": (f"{CONTAINER}|env|2|value", "//mnt/models/keys", "TRUSTED_KEYS"),
    "keys by dots": (f"{CONTAINER}|env|2|value", "/etc/../mnt/./models", "TRUSTED_KEYS"),
    "keys by a relative path": (f"{CONTAINER}|env|2|value", "mnt/models/keys", "TRUSTED_KEYS"),
    "a number as argument": (f"{CONTAINER}|args|5", 8080, "put numbers in quotes"),
    "canary percent in Standard": ("spec|predictor|canaryTrafficPercent", 10, "Standard mode"),
    "canary percent of 150": ("spec|predictor|canaryTrafficPercent", 150, "between 0 and 100"),
    "canary of 150": ("spec|canary", [canary("next", 150)], "between 0 and 100"),
    "canary without a name": ("spec|canary", [canary(None, 10)], "name"),
    "two canaries of one name": ("spec|canary", [canary("a", 1), canary("a", 2)], "canary[1]"),
    "canaries above 100": ("spec|canary", [canary("a", 60), canary("b", 60)], "sums to 120"),
    "canary that scales": ("spec|canary", [canary("a", 1, maxReplicas=1)], "autoscaling"),
    "canary of more": ("spec|canary", [canary("a", 1, minReplicas=2)], "more than spec.predictor"),
    "canary without a format": ("spec|canary", [canary("a", 1, model={"x": 1})], "modelFormat"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_rule_is_named_with_its_path(good: Manifest, name: str) -> None:
    path, value, said = WRONG[name]
    manifest = deepcopy(good)
    edit(path, value)(manifest)
    with pytest.raises(ManifestError) as refused:
        check_rules(manifest)
    assert said in str(refused.value)


def test_a_sidecar_is_not_held_to_the_server_s_rules(good: Manifest) -> None:
    manifest = deepcopy(good)
    containers = manifest["spec"]["predictor"]["containers"]
    containers.insert(0, {"name": "log-shipper", "image": "registry.example/shipper:1"})
    check_rules(manifest)
    del containers[1]["env"][2]
    with pytest.raises(ManifestError, match=r"containers\[1\]\.env: AIRWORTHY_TRUSTED_KEYS"):
        check_rules(manifest)


@pytest.fixture
def rolled_out(good: Manifest) -> Manifest:
    """The example with a canary of another certified model."""
    subject = "fedcba9876543210" * 4
    other = replace(example(), subject=subject, storage_uri=f"s3://models/flights/{subject}")
    predictor = build(other)["spec"]["predictor"]
    for name in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"):
        del predictor[name]
    predictor |= {"name": "next", "annotations": {"airworthy.dev/subject": subject}}
    manifest = deepcopy(good)
    manifest["spec"]["canary"] = [{"trafficPercent": 10, "predictor": predictor}]
    return manifest


def test_a_canary_of_a_certified_model_is_accepted(rolled_out: Manifest) -> None:
    assert all(check.done for check in validate(rolled_out, CRDS) if CRDS or "rules" in check.name)


CANARY = "spec|canary|0|predictor"
NEXT = f"{CANARY}|containers|0"
WRONG_CANARIES: dict[str, tuple[str, Any, str]] = {
    "no subject": (f"{CANARY}|annotations", ..., "subject digest"),
    "the champion's subject": (
        f"{CANARY}|annotations", {"airworthy.dev/subject": example().subject}, "digest",
    ),
    "storage without digest": (f"{NEXT}|env|0|value", "s3://models/flights", "digest"),
    "the champion's storage": (f"{NEXT}|env|0|value", example().storage_uri, "digest"),
    "development argument": (f"{NEXT}|args", ["--allow-development-key"], "development key"),
    "no trusted keys": (f"{NEXT}|env|2", {"name": "X", "value": "1"}, "TRUSTED_KEYS"),
    "keys beside the model": (f"{NEXT}|env|2|value", "/mnt/models/keys", "TRUSTED_KEYS"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CANARIES)
def test_a_canary_obeys_the_rules_of_a_champion(rolled_out: Manifest, name: str) -> None:
    path, value, said = WRONG_CANARIES[name]
    edit(path, value)(rolled_out)
    with pytest.raises(ManifestError, match=r"^spec\.canary\[0\]\.predictor") as refused:
        check_rules(rolled_out)
    assert said in str(refused.value)


def test_a_server_that_verifies_nothing_is_refused(rolled_out: Manifest) -> None:
    """KServe's own runtimes load what they find."""
    uri = f"s3://models/flights/{example().subject}"
    framework = {"model": {"modelFormat": {"name": "onnx"}, "storageUri": uri}}
    rolled_out["spec"]["predictor"] = framework
    with pytest.raises(ManifestError, match="no other verifies the certificate"):
        check_rules(rolled_out)


def test_knative_canaries_are_accepted_in_their_mode_only(good: Manifest) -> None:
    manifest = deepcopy(good)
    manifest["metadata"]["annotations"][MODE] = "Knative"
    manifest["spec"]["predictor"]["canaryTrafficPercent"] = 10
    check_rules(manifest)
    manifest["spec"]["canary"] = [canary("next", 10)]
    with pytest.raises(ManifestError, match="Standard mode"):
        check_rules(manifest)


def test_no_deployment_can_be_built_that_allows_a_development_key() -> None:
    allowing = replace(example(), environment={"AIRWORTHY_ALLOW_DEVELOPMENT_KEY": "1"})
    with pytest.raises(ManifestError, match="never allows a development key"):
        build(allowing)


def test_building_does_not_read_the_callers_command_line() -> None:
    """KServe parses sys.argv at import, abbreviations included: in a fresh process it would end."""
    code = "from serving.manifest import build, example; print(build(example())['kind'])"
    ran = subprocess.run(
        [sys.executable, "-c", code, "--config", "{}", "--workers", "none"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "InferenceService", ran.stderr


def test_what_a_load_test_found_is_in_the_manifest() -> None:
    found = Scale(concurrency=400, cpu=0.9, minimum=2, maximum=7)
    predictor = build(replace(example(), scale=found))["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 7)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("cpu", 70)
    (container,) = predictor["containers"]
    assert container["resources"]["requests"]["cpu"] == "900m"
    place = container["args"].index("--concurrency")
    assert container["args"][place + 1] == "400"
    # Several replicas share a store: without Redis's secret none of them starts.
    (store,) = (e for e in container["env"] if e["name"] == "AIRWORTHY_ONLINE_STORE")
    assert "optional" not in store["valueFrom"]["secretKeyRef"]


def test_in_knative_mode_replicas_follow_requests_under_way() -> None:
    found = Scale(concurrency=400, cpu=0.9, minimum=2, maximum=7)
    deployment = replace(example(), scale=found, deployment_mode="Knative")
    predictor = build(deployment)["spec"]["predictor"]
    assert predictor["containerConcurrency"] == 400
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 280)
