"""What crosses the edges between Flyte tasks: flat data classes that read well in the console."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mashumaro.mixins.json import DataClassJSONMixin

from feature_repo.errors import TrainingError
from feature_repo.home import Home


@dataclass(frozen=True)
class State:
    """A home, by its folder and its identity. Cached tasks take it as an input, so that no
    result of a deleted or another clone's home is ever taken for this one's."""

    root: str
    id: str

    def home(self) -> Home:
        """The home itself."""
        return Home(root=Path(self.root))


@dataclass(frozen=True)
class SourceFile:
    """A raw file as it was read: what the audit trail ends at."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Folder:
    """A folder in content-addressed storage; ``digest`` covers every file in it."""

    name: str
    uri: str
    digest: str


@dataclass(frozen=True)
class Step:
    """What one step did. A step that finished before its execution began came from the cache."""

    name: str
    seconds: float
    finished_at: str
    message: str
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0


@dataclass(frozen=True)
class Metrics:
    """What was measured of a training, in columns of one length: name, value, and the step or the
    epoch that it belongs to (0: the whole)."""

    names: list[str]
    values: list[float]
    steps: list[int]


@dataclass(frozen=True)
class Verdict:
    """One gate rule applied: ``value operator limit``; value is NaN where there is none."""

    rule: str
    metric: str
    operator: str
    limit: float
    value: float
    passed: bool
    note: str


# What a hyper-parameter may be: least value, what it stays below, and the rule in words.
BOUNDS = {
    "epochs": (1, math.inf, "a whole number, at least 1"),
    "batch_size": (1, math.inf, "a whole number, at least 1"),
    "learning_rate": (math.ulp(0), math.inf, "a number above 0 and finite"),
    "weight_decay": (0, math.inf, "a number, at least 0 and finite"),
    "width": (1, math.inf, "a whole number, at least 1"),
    "layers": (1, math.inf, "a whole number, at least 1"),
    "dropout": (0, 1, "a number, at least 0 and below 1"),
    "patience": (0, math.inf, "a whole number, at least 0"),
    "averaging": (0, 1, "a number, at least 0 and below 1"),
    "members": (1, math.inf, "a whole number, at least 1"),
    "bins": (2, math.inf, "a whole number, at least 2"),
    "embedding": (1, math.inf, "a whole number, at least 1"),
    "feature_fraction": (math.ulp(0), math.nextafter(1, 2), "a number above 0 and at most 1"),
    "seed": (0, 2**63, "a whole number, at least 0 and below 2**63"),
}
# And those that are words.
CHOICES = {
    "model": ("mlp", "tabm"),
    "precision": ("float32", "bfloat16", "float64"),
    "sharding": ("none", "full"),
}
# What fields left out are where the model is not the MLP: docs/adr/0019 says what was tried.
DEFAULTS: dict[str, dict[str, float]] = {
    "tabm": {
        "epochs": 12, "batch_size": 1024, "learning_rate": 2e-2, "weight_decay": 0.0, "width": 256,
        "layers": 2, "dropout": 0.15, "feature_fraction": 0.6, "averaging": 0.25,
    }
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig(DataClassJSONMixin):
    """Hyper-parameters of a training run; fields left out of a launch have the values below, or
    those of ``DEFAULTS`` for another ``model``.

    ``model``: ``mlp``, which is the use case's own network where it has one, or ``tabm``.
    ``batch_size`` is the global batch, over all ranks. ``patience``: epochs without a better
    validation loss before training stops; the one-cycle schedule lets it rise in the middle.
    ``width``, ``layers`` and ``dropout`` shape the platform's networks; ``members``, ``bins``,
    ``embedding`` and ``feature_fraction`` (of the inputs, that a member sees) TabM alone; a use
    case's own builder may read them too. ``averaging``: the weights that are judged and kept are a
    moving average over about this share of the steps so far; 0: the last step's. ``precision``:
    bfloat16 is mixed, its weights are float32. ``sharding``: ``full`` shares weights and moments
    out among the ranks (FSDP2), ``none`` has a copy on each (DDP).
    """

    epochs: int = 6
    batch_size: int = 2048
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    width: int = 256
    layers: int = 3
    dropout: float = 0.4
    patience: int = 6
    seed: int = 20130101
    precision: str = "float32"
    sharding: str = "none"
    model: str = "mlp"
    members: int = 8
    bins: int = 24
    embedding: int = 8
    feature_fraction: float = 1.0
    averaging: float = 0.0

    def __post_init__(self) -> None:
        """Raises TrainingError: a value is out of its bounds."""
        _check_bounds(vars(self))

    @classmethod
    def __pre_deserialize__(cls, d: dict[Any, Any]) -> dict[Any, Any]:
        """Raises TrainingError: a field is unknown, which the launcher alone would drop, or has a
        value that is not one of its type, which it would cast."""
        if not isinstance(d, Mapping):
            raise TrainingError(
                f"the config is {d!r}, but must be a JSON object: fields of TrainingConfig by name"
            )
        known = [field.name for field in fields(cls)]
        unknown = ", ".join(repr(name) for name in d if name not in known)
        if unknown:
            raise TrainingError(
                f"the config has no field {unknown}: it knows {', '.join(known)}; mend the name, "
                "or leave it out"
            )
        _check_bounds(d)
        return DEFAULTS.get(d.get("model", ""), {}) | d


def _check_bounds(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in CHOICES:
            if value not in CHOICES[name]:
                known = ", ".join(CHOICES[name])
                raise TrainingError(
                    f"the config's {name} is {value!r}, but must be one of {known}; mend it"
                )
            continue
        low, below, rule = BOUNDS[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = not rule.startswith("a whole") or (number and value % 1 == 0)
        if not (number and whole and low <= value < below):
            raise TrainingError(f"the config's {name} is {value!r}, but must be {rule}; mend it")


def check_checkpoint_steps(steps: int) -> None:
    """The rule for ``checkpoint_steps``, for whoever is started by itself too.

    Raises:
        TrainingError: they are negative.
    """
    if steps < 0:
        raise TrainingError(f"checkpoint_steps is {steps}, but must be 0 (none) or more; mend it")


@dataclass(frozen=True)
class SplitRows:
    """Rows of a training set by part; ``unused`` have no label, or lie between the parts."""

    training: int
    validation: int
    test: int
    unused: int


@dataclass(frozen=True)
class Certified:
    """A certified model: subject digest, directory, certificate id and semantic version.
    ``passed`` is the gate's word; ``already``: the certificate was there before."""

    subject: str
    model_dir: str
    certificate: str
    version: str
    passed: bool
    already: bool


DEFAULT_CONFIG = TrainingConfig()
