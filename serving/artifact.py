"""A model directory: the names of its files, and what ``model.json`` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_repo.errors import CertificateError, StateError
from feature_repo.home import digest_of

MODEL = "model.onnx"
PREPROCESS = "preprocess.json"
MODEL_JSON = "model.json"
EVALUATION = "evaluation.json"
GATE = "gate.json"
LINEAGE = "lineage.json"
CARD_MARKDOWN = "card.md"
CARD_HTML = "card.html"
CERTIFICATE = "certificate.json"
FALLBACK = "fallback"  # the folder of the model of the request alone: the first three files


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Of ``model.json`` what a program that loads the model goes by: what it answers for, the
    inputs that it was trained to read, and the tick rule that they were computed by."""

    use_case: str
    declaration: str
    threshold: float
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    tick_seconds: int
    lag_seconds: int


def content_of(files: Mapping[str, str]) -> str:
    """One digest of what gives a model's answers, its graph and its preprocessing, by the digests
    of its files; nothing where one of the two is missing. What was measured and written about the
    model is not in it: the same answers stay the same model."""
    answering = {name: files[name] for name in (MODEL, PREPROCESS) if name in files}
    return digest_of(answering) if len(answering) == 2 else ""


def fallback_files(files: Mapping[str, str]) -> dict[str, str]:
    """Digests of the fallback's files by their names in its folder, of those of the model's."""
    within = f"{FALLBACK}/"
    return {n.removeprefix(within): d for n, d in files.items() if n.startswith(within)}


def read_file(folder: Path, name: str, files: Mapping[str, str] | None) -> bytes:
    """Bytes of a model's file; with ``files`` (a certificate's digests by name) exactly those
    that were certified, whatever was put into the file since it was verified.

    Raises:
        CertificateError: the bytes are others.
        OSError: the file cannot be read.
    """
    content = (folder / name).read_bytes()
    if files is not None and hashlib.sha256(content).hexdigest() != files.get(name):
        raise CertificateError(
            f"{folder / name} was changed after it was verified; find out by whom, restore it, "
            "and start again"
        )
    return content


def read_model(folder: Path, files: Mapping[str, str] | None = None) -> ModelInfo:
    """What ``model.json`` in ``folder`` says; ``files`` as in ``read_file``.

    Raises:
        StateError: the file is missing, is no JSON or lacks an entry.
        CertificateError: it is not the one that was certified.
    """
    path = folder / MODEL_JSON
    try:
        document = json.loads(read_file(folder, MODEL_JSON, files))
        return ModelInfo(
            use_case=str(document["use_case"]),
            declaration=str(document["declaration"]),
            threshold=float(document["threshold"]),
            numeric=tuple(document["inputs"]["numeric"]),
            categorical=tuple(document["inputs"]["categorical"]),
            tick_seconds=int(document["tick_seconds"]),
            lag_seconds=int(document["lag_seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StateError(
            f"{path} is missing or no model description ({exc!r}); export the model again"
        ) from exc
