"""Checkpoints on disk or in object storage: what is in one, whether it is whole, how it travels.

A checkpoint is a folder ``step-<number>`` of torch.distributed.checkpoint's files and, written
last, ``manifest.json`` with the SHA-256 of each. Without a manifest it is not one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from feature_repo.errors import CheckpointError
from feature_repo.home import file_digest
from tasks.types import TrainingConfig

MANIFEST = "manifest.json"
PREFIX = "step-"
FREE = ("code", "epochs", "patience")  # what may differ from the checkpoint's training


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    ``files``: SHA-256 by name; ``made_of``: what the training was made of, by which a resumption is
    judged; ``position``: where it stood; ``world`` and ``device``: the ranks that wrote it, and on
    what (cpu, cuda); ``taken``: seconds, CPU seconds and GPU seconds up to it, of all ranks.
    """

    step: int
    world: int
    device: str
    made_of: dict[str, Any]
    position: dict[str, Any]
    files: dict[str, str]
    taken: dict[str, float] = field(default_factory=dict)


def sealed(manifest: Manifest) -> bytes:
    """The manifest's file, which holds its own digest too."""
    body = asdict(manifest)
    return json.dumps({"sha256": _digest(body), "manifest": body}, indent=1).encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def checkpoints_in(uri: str) -> list[str]:
    """Addresses of the finished checkpoints of a run's folder, the newest first; unread."""
    fs, root = fsspec.core.url_to_fs(uri)
    if not fs.isdir(root):
        return []
    fs.invalidate_cache(root)
    names = sorted((entry.rsplit("/", 1)[-1] for entry in fs.ls(root, detail=False)), reverse=True)
    return [
        f"{uri.rstrip('/')}/{name}"
        for name in names
        if name.startswith(PREFIX) and fs.exists(f"{root}/{name}/{MANIFEST}")
    ]


def fetch(uri: str, scratch: Path) -> tuple[Path, Manifest]:
    """A checkpoint as a local folder, every file of it checked; what is remote goes to ``scratch``.

    Raises:
        CheckpointError: a file is missing, cut or altered, or one too many is there.
    """
    fs, root = fsspec.core.url_to_fs(uri)
    folder = Path(root)
    if "file" not in fs.protocol:
        folder = scratch / Path(root).name
        shutil.rmtree(folder, ignore_errors=True)
        fs.get(root, str(folder), recursive=True)
    manifest = _read_manifest(uri, folder / MANIFEST)
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(found ^ set(manifest.files)):
        fault = "is missing" if name in manifest.files else "is not in its manifest"
        raise _refused(uri, f"file {name} {fault}")
    for name, digest in manifest.files.items():
        if file_digest(folder / name) != digest:
            raise _refused(uri, f"file {name} is not what was written")
    return folder, manifest


def _read_manifest(uri: str, path: Path) -> Manifest:
    try:
        written = json.loads(path.read_bytes())
        manifest = Manifest(**written["manifest"])
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise _refused(uri, f"its {MANIFEST} cannot be read") from exc
    if _digest(written["manifest"]) != written.get("sha256"):
        raise _refused(uri, f"its {MANIFEST} is not what was written")
    return manifest


def _refused(uri: str, fault: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {uri}: {fault}; take an earlier one, or its run's folder, of which the last "
        "good one is taken"
    )


def upload(folder: Path, names: list[str], uri: str) -> None:
    """Put files into object storage, in parts where they are large, and read each back.

    Raises:
        CheckpointError: what is there is not what was sent.
    """
    fs, root = fsspec.core.url_to_fs(uri)
    for name in names:
        fs.put_file(str(folder / name), f"{root}/{name}")
        with fs.open(f"{root}/{name}", "rb") as sent:
            if hashlib.file_digest(sent, "sha256").hexdigest() != file_digest(folder / name):
                raise _refused(uri, f"file {name} was changed on its way")


def compare(uri: str, there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether a checkpoint is of other code than this training, ``made_of`` each.

    Raises:
        CheckpointError: it is of another training, or of more epochs.
    """
    theirs, ours = _flat(there), _flat(here)
    keys = [key for key in ours | theirs if key not in FREE]
    other = [key for key in keys if theirs.get(key, "absent") != ours.get(key, "absent")]
    if other:
        told = "; ".join(
            f"{key} is {theirs.get(key, 'absent')} there, {ours.get(key, 'absent')} here"
            for key in other
        )
        raise CheckpointError(
            f"checkpoint {uri} is of another training: {told}; give the training what the "
            "checkpoint's had, or leave resume_from out"
        )
    if theirs["epochs"] > ours["epochs"]:
        raise CheckpointError(
            f"checkpoint {uri} is of a training of {theirs['epochs']} epochs, this one has "
            f"{ours['epochs']}: give as many, or more"
        )
    return bool(theirs["code"] != ours["code"])


def _flat(made_of: dict[str, Any]) -> dict[str, Any]:
    # A checkpoint may be older than a field, and was made with what that does not change.
    config = asdict(TrainingConfig()) | made_of["config"]
    return {k: v for k, v in made_of.items() if k != "config"} | config


def in_words(exc: BaseException) -> str:
    """The cause in a line; torch's exception holds one a rank."""
    failures = getattr(exc, "failures", None)
    if failures:
        return "; ".join(f"rank {number}: {_last_line(f[0])}" for number, f in failures.items())
    return _last_line(exc)


def _last_line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}".strip().splitlines()[-1]
