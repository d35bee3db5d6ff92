"""A release as it is declared, and where it stands: what ``serving.rollout`` decides on.

Frozen and plain, so that a state goes into JSON after one look and comes out before the next.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DeclarationError, StateError

Floats = npt.NDArray[np.float64]
Kind = Literal["up", "hold", "back"]
FORMAT = "airworthy.rollout/v1"
WAITS = "ready for 100 %, which waits for an approval"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much worse the challenger may be. A proof of more than that takes it back.

    ``failed``, ``slow``, ``mistakes``: differences of shares; ``slow_seconds``: from where an
    answer is slow; ``shift``: of the mean score, either way, in its unit; ``loss``: squared error.
    The values of the last two are a probability's: a regression declares its own.

    Raises:
        DeclarationError: one is negative or not finite.
    """

    failed: float = 0.01
    slow: float = 0.05
    slow_seconds: float = 0.25
    shift: float = 0.05
    mistakes: float = 0.005
    loss: float = 0.005

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if not 0 <= limit < math.inf:
                raise DeclarationError(f"limits.{name} {limit:g}: it must be at least 0 and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A release as it is declared, before anything is seen.

    ``steps``: percent of the traffic, after the shadow, the last one 100. Each step, the shadow
    included, needs ``requests`` answers of the challenger, ``pairs`` new answers of both models to
    the same requests and ``outcomes`` new pairs with their label, or intervals that exclude harm.
    ``pairs`` and ``outcomes`` are not asked for at the last step, where the champion answers
    nothing. An outcome counts ``window_hours`` after its prediction time, if its label came within
    them: a late flight's label comes later than a punctual one's, so the labels of a moment are
    those of other flights than of all. ``bounded``: scores and losses lie in [0, 1], as a binary
    task's do; a release takes it from its use case.

    Raises:
        DeclarationError: steps do not rise to 100, a minimum is negative, or alpha is no
            probability.
    """

    steps: tuple[int, ...] = (5, 25, 50, 100)
    requests: int = 200
    pairs: int = 200
    outcomes: int = 0
    window_hours: float = 24.0
    alpha: float = 0.05
    limits: Limits = Limits()
    bounded: bool = True

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0, *self.steps), self.steps, strict=False))
        if not self.steps or not rising or self.steps[-1] != 100:
            raise DeclarationError(f"steps {self.steps}: they must rise from above 0 to 100")
        if not 0 < self.alpha < 1:
            raise DeclarationError(f"alpha {self.alpha}: it must be above 0 and below 1")
        for name in ("requests", "pairs", "outcomes", "window_hours"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DeclarationError(f"{name} {getattr(self, name)}: it must be at least 0")

    def of(self, task: str, unit: str) -> Plan:
        """The plan of a release whose scores are a ``task``'s, in ``unit``.

        Raises:
            DeclarationError: a regression's, whose ``shift`` and ``loss`` nobody declared.
        """
        bounded, limits = task == "binary", self.limits
        if not bounded and (limits.shift, limits.loss) == (Limits().shift, Limits().loss):
            raise DeclarationError(
                f"limits.shift and limits.loss are a probability's, and these scores are in {unit}:"
                " say how far their mean may move and how much their squared error may grow, such "
                'as --plan \'{"limits": {"shift": 1, "loss": 2}}\''
            )
        return replace(self, bounded=bounded)

    @property
    def window(self) -> timedelta:
        """How long after its prediction time an outcome counts."""
        return timedelta(hours=self.window_hours)

    def percent(self, step: int) -> int:
        """Share of the traffic at a step; step 0 is the shadow."""
        return self.steps[step - 1] if step else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Answers of one arm, how many of them failed, and how many were slow."""

    requests: int = 0
    failed: int = 0
    slow: int = 0

    def since(self, begun: Traffic) -> Traffic:
        """What came after ``begun``; of a server that was started again since, all that it counts
        (as Prometheus' ``increase`` has it)."""
        grown = Traffic(
            requests=self.requests - begun.requests,
            failed=self.failed - begun.failed,
            slow=self.slow - begun.slow,
        )
        return self if min(grown.requests, grown.failed, grown.slow) < 0 else grown


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was seen since the release began, as of one look.

    ``canary`` are the challenger's answers that callers got, ``shadow`` those that nobody got.
    Of a request with several rows the mean counts, once. ``shift`` float64 [pairs]: the
    challenger's score less the champion's; ``mistakes``, ``loss`` float64 [outcomes]: likewise,
    whether the decision was wrong (-1, 0, 1; none of a regression) and the squared error of the
    score.
    """

    champion: Traffic
    canary: Traffic
    shadow: Traffic
    shift: Floats
    mistakes: Floats
    loss: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What had been seen when a step began."""

    champion: Traffic = Traffic()
    canary: Traffic = Traffic()
    pairs: int = 0
    outcomes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One sequence at one look: the challenger less the champion. ``low`` and ``high`` are None
    where nothing is known on that side."""

    name: str
    count: int
    mean: float | None
    low: float | None
    high: float | None
    limit: float

    @property
    def harm(self) -> bool:
        """Whether more than the limit is proven."""
        below = self.name == "shift" and self.high is not None and self.high < -self.limit
        return below or (self.low is not None and self.low > self.limit)

    @property
    def safe(self) -> bool:
        """Whether harm beyond the limit is excluded."""
        above = self.high is not None and self.high <= self.limit
        below = self.name != "shift" or (self.low is not None and self.low >= -self.limit)
        return above and below

    @property
    def suspect(self) -> bool:
        """Whether what was seen is beyond the limit, proven or not."""
        seen = self.mean or 0.0
        return (abs(seen) if self.name == "shift" else seen) > self.limit

    def describe(self) -> str:
        """The figure in words."""
        if self.mean is None or self.low is None or self.high is None:
            return f"{self.name}: nothing known yet of {self.count:,} (limit {self.limit:g})"
        return (
            f"{self.name} {self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, limit "
            f"{self.limit:g}, {self.count:,} seen)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a look decided, why in words, and the figures that led to it."""

    kind: Kind
    step: int
    percent: int
    words: str
    figures: tuple[Figure, ...]

    @property
    def waits(self) -> bool:
        """Whether nothing but an approval is missing."""
        return self.kind == "hold" and self.words.startswith(WAITS)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a release stands. ``ended``: empty while it goes on; ``done``: 100 % were passed and
    the challenger may be promoted."""

    step: int = 0
    begun: Counts = Counts()
    ended: Literal["", "back", "done"] = ""
    decisions: tuple[Decision, ...] = ()


def to_json(plan: Plan, state: State, more: dict[str, Any]) -> bytes:
    """Plan, state and what else a release must remember, as one document."""
    document = {"format": FORMAT, "plan": asdict(plan), "state": asdict(state), **more}
    return json.dumps(document, indent=1, allow_nan=False).encode()


def from_json(content: bytes) -> tuple[Plan, State, dict[str, Any]]:
    """What ``to_json`` wrote.

    Raises:
        StateError: it is not such a document.
    """
    try:
        document = json.loads(content)
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        said, was = document.pop("plan"), document.pop("state")
        said |= {"limits": Limits(**said["limits"]), "steps": tuple(said["steps"])}
        decisions = tuple(_decision(decision) for decision in was["decisions"])
        state = State(**{**was, "begun": _counts(was["begun"]), "decisions": decisions})
        return Plan(**said), state, document
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StateError(
            f"the state of the release is damaged ({exc!r}); roll back, and begin it again"
        ) from exc


def _decision(told: dict[str, Any]) -> Decision:
    figures = tuple(Figure(**figure) for figure in told["figures"])
    return Decision(**{**told, "figures": figures})


def _counts(told: dict[str, Any]) -> Counts:
    arms = {arm: Traffic(**told[arm]) for arm in ("champion", "canary")}
    return Counts(**{**told, **arms})
