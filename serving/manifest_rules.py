"""What an InferenceService must satisfy beyond its types: the webhook's rules, ours, the CRD.

The CRD's schema lets pass a model without a format, a canary of 150 per cent or two canaries of
one name. KServe's webhook (Go: ``validateCanarySpecs`` and its neighbours) refuses them on the
cluster; here they are refused before they are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from feature_repo.errors import ManifestError

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
SUBJECT = "airworthy.dev/subject"
STANDARD, KNATIVE = {"Standard", "RawDeployment"}, {"Knative", "Serverless"}
_NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_STORAGE = re.compile(r"^(gs|s3|pvc|hdfs|webhdfs|https?|hf|oci|file)://")
_FRAMEWORKS = (
    "huggingface", "lightgbm", "model", "onnx", "paddle", "pmml", "pytorch", "sklearn",
    "tensorflow", "triton", "xgboost",
)  # fmt: skip
AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")
_SERVER = ["python", "-m", "serving.server"]
MODEL_MOUNT = "/mnt/models"  # where KServe's storage initialiser puts the model directory
_CRD_FILE = "inferenceservices.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check of a manifest: done, or skipped and why."""

    name: str
    done: bool
    note: str


def validate(manifest: Mapping[str, Any], crd_folder: Path | None) -> list[Check]:
    """Check a manifest by rules and, where CRDs are at hand, by their schema made strict.

    Raises:
        ManifestError: names the path and the rule.
    """
    check_rules(manifest)
    rules = Check(name="webhook rules", done=True, note="passed")
    if crd_folder is None:
        note = "skipped: $AIRWORTHY_CRDS names no folder of CRDs"
        return [rules, Check(name="CRD schema", done=False, note=note)]
    version = check_schema(manifest, crd_folder / _CRD_FILE)
    return [rules, Check(name="CRD schema", done=True, note=f"passed: {version}")]


def check_rules(manifest: Mapping[str, Any]) -> None:
    """The webhook's rules and ours.

    Raises:
        ManifestError: names the path and the rule.
    """
    for path, rule in _broken(manifest):
        raise ManifestError(f"{path}: {rule}")


def check_schema(manifest: Mapping[str, Any], crd: Path) -> str:
    """Validate against the CRD's OpenAPI schema, unknown fields refused; the version used.

    Raises:
        ManifestError: the CRD is missing or not a CRD, or the manifest breaks its schema.
    """
    wanted = str(manifest.get("apiVersion")).rpartition("/")[2]
    try:
        validator = _validators(crd, crd.stat().st_mtime_ns).get(wanted)
    except OSError as exc:
        raise _no_crd(crd, exc) from exc
    if validator is None:
        raise ManifestError(f"apiVersion: {wanted!r} is not a version of {crd.name}")
    errors = sorted(validator.iter_errors(manifest), key=str)
    if errors:
        where = ".".join(map(str, errors[0].absolute_path)) or "(root)"
        raise ManifestError(f"{where}: {errors[0].message} (schema of {crd.name})")
    return wanted


@lru_cache(maxsize=4)  # reading one takes a second, and a release checks each of its patches
def _validators(crd: Path, modified: int) -> dict[str, Any]:
    """A validator of each version in the file; ``modified`` makes a changed one be read again."""
    import yaml
    from jsonschema import Draft202012Validator

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        versions = yaml.load(crd.read_bytes(), Loader=loader)["spec"]["versions"]  # noqa: S506 - safe
        schemas = {v["name"]: _strict(v["schema"]["openAPIV3Schema"]) for v in versions}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        raise _no_crd(crd, exc) from exc
    return {name: Draft202012Validator(schema) for name, schema in schemas.items()}


def _no_crd(crd: Path, exc: Exception) -> ManifestError:
    return ManifestError(
        f"{crd} is no custom resource definition ({exc!r}); correct $AIRWORTHY_CRDS"
    )


def _strict(schema: Any) -> Any:
    """Kubernetes prunes unknown fields silently; a manifest of ours must not have any."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    closed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def _broken(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and rule of everything that is wrong."""
    if manifest.get("apiVersion") != "serving.kserve.io/v1beta1":
        yield "apiVersion", "must be serving.kserve.io/v1beta1"
    if manifest.get("kind") != "InferenceService":
        yield "kind", "must be InferenceService"
    metadata, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    if not _NAME.match(str(metadata.get("name", ""))):
        yield "metadata.name", "must be lower-case letters, digits and dashes, a letter first"
    mode = (metadata.get("annotations") or {}).get(DEPLOYMENT_MODE)
    if mode not in STANDARD | KNATIVE:
        yield f"metadata.annotations[{DEPLOYMENT_MODE}]", "must be set to Standard or Knative"
    predictor = spec.get("predictor") or {}
    yield from _predictor("spec.predictor", predictor)
    yield from _canaries(spec, mode)
    yield from _ours("metadata", metadata, "spec.predictor", predictor)
    for position, canary in enumerate(spec.get("canary") or []):
        its, path = canary.get("predictor") or {}, f"spec.canary[{position}].predictor"
        yield from _ours(path, its, path, its)  # another model: its subject is its own


def _predictor(path: str, predictor: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    frameworks = [name for name in _FRAMEWORKS if predictor.get(name)]
    containers = predictor.get("containers") or []
    if len(frameworks) + bool(containers) != 1:
        yield path, f"needs exactly one of containers, {', '.join(_FRAMEWORKS)}"
    if containers and "kserve-container" not in [c.get("name") for c in containers]:
        yield f"{path}.containers", "one must be named kserve-container"
    model = predictor.get("model")
    if model and not (model.get("modelFormat") or {}).get("name"):
        yield f"{path}.model.modelFormat.name", "is required"
    low, high = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    if low < 0 or high < 0 or (high and low > high):
        yield f"{path}.minReplicas", "must be 0 or more, and no more than maxReplicas"
    for place, uri in _storage(path, predictor):
        if not _STORAGE.match(uri):
            yield place, f"{uri!r} has no scheme that KServe can fetch"


def _canaries(spec: Mapping[str, Any], mode: Any) -> Iterator[tuple[str, str]]:
    predictor = spec.get("predictor") or {}
    percent = predictor.get("canaryTrafficPercent")
    if percent is not None:
        if not 0 <= percent <= 100:
            yield "spec.predictor.canaryTrafficPercent", "must be between 0 and 100"
        if mode in STANDARD:
            yield "spec.predictor.canaryTrafficPercent", "is ignored in Standard mode: use canary"
    canaries = spec.get("canary") or []
    if canaries and mode in KNATIVE:
        yield "spec.canary", "is for Standard mode: use predictor.canaryTrafficPercent"
    names, total = {predictor.get("name")}, 0
    for position, canary in enumerate(canaries):
        path, its = f"spec.canary[{position}]", canary.get("predictor") or {}
        yield from _canary(path, canary, its, names)
        if its.get("minReplicas", 0) > predictor.get("minReplicas", 1):
            yield f"{path}.predictor.minReplicas", "must not be more than spec.predictor's"
        names.add(its.get("name"))
        total += canary.get("trafficPercent", 0)
        yield from _predictor(f"{path}.predictor", its)
    if total > 100:
        yield "spec.canary", f"trafficPercent sums to {total}, more than 100"


def _canary(
    path: str, canary: Mapping[str, Any], predictor: Mapping[str, Any], names: set[Any]
) -> Iterator[tuple[str, str]]:
    if not 0 <= canary.get("trafficPercent", -1) <= 100:
        yield f"{path}.trafficPercent", "must be between 0 and 100"
    if not predictor.get("name") or predictor["name"] in names:
        yield f"{path}.predictor.name", "is required, and no other predictor may have it"
    for scaling in AUTOSCALING:
        if scaling in predictor:
            yield f"{path}.predictor.{scaling}", "a canary takes no autoscaling fields"


def _ours(
    named: str, annotated: Mapping[str, Any], path: str, predictor: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """A server that verifies; no development key in a cluster; keys from a mount; the content's
    digest, which ``annotated`` (at the path ``named``) says, in the address."""
    subject = str((annotated.get("annotations") or {}).get(SUBJECT, ""))
    if not re.fullmatch("[0-9a-f]{64}", subject):
        yield f"{named}.annotations[{SUBJECT}]", "must be the model's subject digest (sha256)"
    for place, uri in _storage(path, predictor):
        if not subject or subject not in uri:
            yield place, "must hold the subject digest: an unchanged address is not reloaded"
    if predictor.get("storageUris"):
        yield f"{path}.storageUris", "must be the STORAGE_URI of kserve-container"
    if predictor.get("initContainers"):
        yield f"{path}.initContainers", "could change the model after it was fetched"
    servers = _servers(path, predictor)
    if not servers:
        yield f"{path}.containers", "must hold the server: no other verifies the certificate"
    for where, container in servers.items():
        yield from _server(where, container)


def _server(where: str, container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if words[: len(_SERVER)] != _SERVER:
        yield f"{where}.command", f"must run {' '.join(_SERVER)}, which verifies the certificate"
    if not all(isinstance(word, str) for word in words):
        yield f"{where}.args", "must be texts: put numbers in quotes"
    if container.get("envFrom"):
        yield f"{where}.envFrom", "cannot be checked: name each variable in env"
    names = {e.get("name"): str(e.get("value") or "") for e in container.get("env") or []}
    if any("allow-dev" in str(w) for w in words) or any("ALLOW_DEV" in str(n) for n in names):
        yield where, "a cluster never allows a development key"
    folders = [words[i + 1 :][:1] for i, word in enumerate(words) if word == "--model-dir"]
    if folders != [[MODEL_MOUNT]] or any(str(word).startswith("--model-dir=") for word in words):
        yield f"{where}.args", f"--model-dir must be {MODEL_MOUNT}, where the model is fetched to"
    if "STORAGE_URI" not in names:
        yield f"{where}.env", "STORAGE_URI must say where the model is"
    keys = names.get("AIRWORTHY_TRUSTED_KEYS", "")
    if not keys.startswith("/") or _inside(keys, MODEL_MOUNT):
        yield f"{where}.env", "AIRWORTHY_TRUSTED_KEYS must name keys outside of the model"


def _inside(path: str, folder: str) -> bool:
    """Whether an absolute path, however it is written, leads into a folder."""
    return PurePosixPath(normpath(f"/{path.lstrip('/')}")).is_relative_to(folder)


def _servers(path: str, predictor: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The containers that KServe gives a model to, by their paths; others are sidecars."""
    containers = enumerate(predictor.get("containers") or [])
    return {
        f"{path}.containers[{position}]": container
        for position, container in containers
        if container.get("name") == "kserve-container"
    }


def _storage(path: str, predictor: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for framework in _FRAMEWORKS:
        if uri := (predictor.get(framework) or {}).get("storageUri"):
            yield f"{path}.{framework}.storageUri", str(uri)
    for where, container in _servers(path, predictor).items():
        for variable in container.get("env") or []:
            if variable.get("name") == "STORAGE_URI":
                yield f"{where}.env[STORAGE_URI]", str(variable.get("value"))
