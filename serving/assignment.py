"""Which arm a unit meets: a salted hash, so every process, retry and analysis says the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from feature_repo.errors import DeclarationError
from serving.experiment import Experiment

HEADER = "x-airworthy-arm"
_RANGE = 2**64


def unit_of(experiment: Experiment, request: Mapping[str, Any]) -> str:
    """The unit that a request belongs to, as one text: its entity keys' values in their order.

    Raises:
        DeclarationError: the request lacks one of the keys.
    """
    missing = [key for key in experiment.unit if request.get(key) is None]
    if missing:
        raise DeclarationError(
            f"experiment {experiment.name!r} assigns by {', '.join(experiment.unit)}, but the "
            f"request has no {', '.join(missing)}: answer it with the control, outside of the "
            "experiment"
        )
    if len(experiment.unit) == 1:
        return str(request[experiment.unit[0]])
    return json.dumps([str(request[key]) for key in experiment.unit], separators=(",", ":"))


def bucket(salt: str, unit: str) -> float:
    """Place of a unit in [0, 1): 64 bits of blake2b, keyed with the salt."""
    # The key is a digest of the salt, since blake2b takes at most 64 bytes of it.
    key = hashlib.sha256(salt.encode()).digest()
    digest = hashlib.blake2b(unit.encode(), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) / (_RANGE >> 11)  # 53 bits: exact, below 1


def assign(experiment: Experiment, unit: str) -> str:
    """Name of the arm: its part of [0, 1), in the order of the declaration, holds the bucket."""
    place, reached = bucket(experiment.salt, unit), 0.0
    for arm in experiment.arms:
        reached += arm.weight
        if place < reached:
            return arm.name
    return experiment.arms[-1].name  # the weights' sum was rounded down


def header(experiment: Experiment, unit: str) -> dict[str, str]:
    """The header by which a cluster's route sends a unit's request to its arm."""
    return {HEADER: assign(experiment, unit)}
