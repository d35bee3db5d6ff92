"""What crosses the edges between Flyte tasks: flat data classes that read well in the console."""

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class TrainingConfig:
    """Hyper-parameters of a training run.

    ``batch_size`` is the global batch, over all ranks. ``patience``: epochs without a better
    validation loss before training stops. ``width``, ``layers`` and ``dropout`` shape the
    platform's MLP; a use case's own builder may read them too.
    """

    epochs: int = 6
    batch_size: int = 2048
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    width: int = 256
    layers: int = 3
    dropout: float = 0.4
    patience: int = 2
    seed: int = 20130101


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
