"""How much one server takes: from the steps of a load test to the settings of a deployment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from feature_repo.errors import DeclarationError, StateError
from feature_repo.home import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from feature_repo.home import Home

HEADROOM = 0.7  # of the knee: what a replica is given, so that a burst or a lost one is no outage


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One step of a load test: ``connections`` that each ask again as soon as they are answered.

    ``rate``: requests a second; ``mean``, ``p99``: seconds; ``cores``: CPU seconds of the server a
    second; ``failed``: requests that were not answered with 200.
    """

    connections: int
    rate: float
    mean: float
    p99: float
    cores: float
    failed: int

    @property
    def power(self) -> float:
        """Throughput over response time."""
        return self.rate / self.mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Replicas of a deployment. ``concurrency``: requests that one replica has under way before it
    answers 503; ``cpu``: cores that it asks for; ``minimum`` to ``maximum`` replicas, more of them
    where they use ``HEADROOM`` of their CPU."""

    concurrency: int = 256
    cpu: float = 0.5
    minimum: int = 1
    maximum: int = 1


def knee(loads: Sequence[Load]) -> Load:
    """The step beyond which more load buys waiting rather than throughput: that of the greatest
    power (Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in
    computer communications", ICC 1979).

    Raises:
        StateError: no step went without a failure.
    """
    whole = [load for load in loads if not load.failed and load.rate > 0]
    if not whole:
        raise StateError(
            "no step of the load test went without a failed request; look into the server's log"
        )
    return max(whole, key=lambda load: load.power)


def scale(at: Load, usual: float, peak: float, patience: float) -> Scale:
    """Settings for a ``usual`` and a ``peak`` rate (requests a second, all replicas together).

    A replica takes ``HEADROOM`` of the knee ``at``. Requests that would wait longer than
    ``patience`` seconds are refused: by Little's law that many are under way at the knee's rate.

    Raises:
        DeclarationError: a rate is not positive, or the usual one is above the peak.
    """
    if not 0 < usual <= peak or patience <= 0:
        raise DeclarationError(
            f"a usual rate of {usual:g} and a peak of {peak:g} requests a second, patience of "
            f"{patience:g} s: all must be positive, the usual rate at most the peak"
        )
    each = HEADROOM * at.rate
    return Scale(
        concurrency=max(at.connections, math.ceil(at.rate * patience)),
        cpu=max(0.1, math.ceil(at.cores * 10) / 10),
        minimum=math.ceil(usual / each),
        maximum=math.ceil(peak / each),
    )


def write_scale(
    home: Home, use_case: str, subject: str, loads: Sequence[Load], found: Scale
) -> None:
    """Keep the settings that the manifests of a use case get, with what they come from."""
    document = {
        "subject": subject, "measured_at": datetime.now(timezone.utc).isoformat(),
        "loads": [asdict(load) for load in loads], "scale": asdict(found),
    }  # fmt: skip
    write_atomically(_path(home, use_case), json.dumps(document, indent=1).encode())


def read_scale(home: Home, use_case: str) -> Scale:
    """What the last load test of a use case found; the defaults where there was none.

    Raises:
        StateError: its report is damaged.
    """
    path = _path(home, use_case)
    try:
        return Scale(**json.loads(path.read_bytes())["scale"])
    except FileNotFoundError:
        return Scale()
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StateError(
            f"{path} cannot be read ({exc!r}); remove it, and run the load test again"
        ) from exc


def _path(home: Home, use_case: str) -> Path:
    return home.path("capacity", f"{use_case}.json")
