"""Semantic versions of models: what changed decides the number.

major: request fields, output, label or threshold: callers must look. minor: features,
architecture or hyper-parameters. patch: newer data or newer code only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from feature_repo.contract import UseCase

FIRST = "1.0.0"


def interface(use_case: UseCase) -> dict[str, Any]:
    """What a caller sees of a model: a change of it is a major one."""
    return {
        "fields": [[f.name, f.dtype] for f in use_case.fields],
        "task": use_case.task,
        "label": use_case.label,
        "unit": use_case.unit,
        "threshold": use_case.threshold,
    }


def next_version(
    previous: Mapping[str, Any] | None, new: Mapping[str, Any], existing: Collection[str]
) -> str:
    """The version of a new model after ``previous``; never one that exists.

    Both are predicates of certificates: ``version``, ``features`` (``interface`` and
    ``declaration``) and ``config`` are read.
    """
    if previous is None:
        return _free((1, 0, 0), 2, existing)
    major, minor, patch = parse(previous["version"])
    if previous["features"]["interface"] != new["features"]["interface"]:
        return _free((major + 1, 0, 0), 0, existing)
    if _recipe(previous) != _recipe(new):
        return _free((major, minor + 1, 0), 1, existing)
    return _free((major, minor, patch + 1), 2, existing)


def parse(version: str) -> tuple[int, int, int]:
    """``"1.2.3"`` as numbers, for comparing and sorting."""
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def _recipe(predicate: Mapping[str, Any]) -> tuple[Any, Any]:
    return predicate["features"]["declaration"], predicate["config"]


def _free(wanted: tuple[int, int, int], part: int, existing: Collection[str]) -> str:
    numbers = list(wanted)
    while ".".join(map(str, numbers)) in existing:
        numbers[part] += 1
    return ".".join(map(str, numbers))
