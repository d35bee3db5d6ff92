"""A sweep as its workers read it: what is searched, on which data, and what it may cost."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mashumaro.mixins.json import DataClassJSONMixin

from feature_repo.errors import StateError, TrainingError
from feature_repo.home import Home, write_atomically
from feature_repo.tables import Table
from tasks.types import TrainingConfig


@dataclass(frozen=True)
class Budget(DataClassJSONMixin):
    """What a sweep may spend beside its number of trials; 0: no limit.

    ``seconds`` of training, those of all workers together; ``money`` in any currency, at the
    prices of a second of CPU time and of a GPU's. Trials that a worker's death lost count too.
    """

    seconds: float = 0.0
    money: float = 0.0
    cpu_second: float = 0.0
    gpu_second: float = 0.0

    def __post_init__(self) -> None:
        """Raises TrainingError: an amount is below zero or no number, or money has no price."""
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise TrainingError(
                    f"the budget's {name} is {value!r}, but must be a number, at least 0 and finite"
                )
        if self.money and not (self.cpu_second or self.gpu_second):
            raise TrainingError(
                f"the budget's money is {self.money:g}, but nothing has a price: give cpu_second, "
                "gpu_second or both"
            )

    @classmethod
    def __pre_deserialize__(cls, d: dict[Any, Any]) -> dict[Any, Any]:
        """Raises TrainingError: a field is unknown, or its value is no number."""
        known = [field.name for field in fields(cls)]
        for name, value in d.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float):
                raise TrainingError(
                    f"the budget has no field {name!r} with the value {value!r}: its fields are "
                    f"{', '.join(known)}, all numbers; trials are an input of their own"
                )
        return d


@dataclass(frozen=True)
class Spent:
    """What trials took: seconds of training, of CPU time and of GPUs."""

    seconds: float = 0.0
    cpu: float = 0.0
    gpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cpu + other.cpu, self.gpu + other.gpu)

    def money(self, budget: Budget) -> float:
        """At the budget's prices."""
        return self.cpu * budget.cpu_second + self.gpu * budget.gpu_second

    def over(self, budget: Budget) -> bool:
        """Whether the budget is spent."""
        late = 0 < budget.seconds <= self.seconds
        return late or 0 < budget.money <= self.money(budget)


@dataclass(frozen=True)
class Sweep(DataClassJSONMixin):
    """``name`` is the digest of all that makes trials comparable, so the same command, run again,
    goes on with the same trials, and a larger budget adds to them. ``code``: the version of the
    training's code and of the use case's declaration."""

    name: str
    use_case: str
    training_set: Table
    config: TrainingConfig
    space: dict[str, str]
    code: str
    trials: int
    budget: Budget
    prune: bool = True


def name_of(
    use_case: str, training_set: str, config: TrainingConfig, space: dict[str, str], code: str
) -> str:
    """Digest, 16 hex digits, of a training set's digest, a base config, a space and a code."""
    told = [use_case, training_set, asdict(config), sorted(space.items()), code]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def place(home: Home, name: str) -> Path:
    """The sweep's own folder in the home."""
    return home.path("sweeps", name, "x").parent


def write(home: Home, sweep: Sweep) -> Path:
    """Put the sweep where its workers find it, and clean-ups what it needs, until it is over."""
    path = place(home, sweep.name) / "sweep.json"
    write_atomically(path, json.dumps(sweep.to_dict(), indent=1).encode())
    return path


def read(path: Path) -> Sweep:
    """A sweep that ``write`` put there.

    Raises:
        StateError: there is none.
    """
    try:
        return Sweep.from_json(path.read_bytes())
    except OSError as exc:
        raise StateError(
            f"no sweep at {path}: it is over, or was never begun; run the sweep's command again"
        ) from exc


def forget(home: Home, name: str) -> None:
    """The sweep is over: clean-ups need not keep its training set. Its trials stay."""
    (place(home, name) / "sweep.json").unlink(missing_ok=True)
