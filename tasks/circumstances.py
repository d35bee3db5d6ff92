"""How a model came to be, as its certificate tells it beside the judged files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from feature_repo.tables import Table
from serving.artifact import EVALUATION, MODEL_JSON
from tasks.cache import source_version
from tasks.quarantine import quarantine_counts
from tasks.types import SourceFile, Step, Verdict


def data_facts(sources: list[SourceFile], tables: list[Table], quarantine: Any) -> dict[str, Any]:
    """What went in: raw files, clean tables, and the quarantine by rule."""
    return {
        "sources": [asdict(source) for source in sources],
        "tables": {t.name: {"digest": t.digest, "rows": t.rows} for t in tables},
        "quarantine": quarantine_counts(quarantine),
    }


def circumstances(directory: Path, execution: str, steps: list[Step]) -> dict[str, Any]:
    """How the model came to be: what the certificate tells beside the judged files. Its cost is
    that of every step before it; those that use it (registering, releasing) come later."""
    model = json.loads((directory / MODEL_JSON).read_bytes())
    measured = json.loads((directory / EVALUATION).read_bytes())
    version, _, commit = source_version().partition("+")
    return {
        "execution": execution,
        "code": {"version": version, "commit": commit, "lock": installed()},
        "config": {"architecture": model["architecture"], **model["config"]},
        "seed": model["seed"],
        "metrics": {key: measured[key] for key in ("rows", "days", "test", "reference")},
        "cost": {
            "seconds": round(sum(s.seconds for s in steps), 3),
            "cpu_seconds": round(sum(s.cpu_seconds for s in steps), 3),
            "gpu_seconds": round(sum(s.gpu_seconds for s in steps), 3),
            "steps": {s.name: s.seconds for s in steps},
        },
    }


@cache
def installed() -> str:
    """sha256 of the names and versions of all installed distributions: what really ran."""
    names = {f"{d.metadata['Name']}=={d.version}".lower() for d in distributions()}
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON knows it: no NaN."""
    absent = verdict.value != verdict.value
    return {**asdict(verdict), "value": None if absent else verdict.value}
