"""Where a release happens, behind one small interface: real processes here, a cluster there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serving.rollout_plan import Traffic


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenger:
    """The model that is released: its directory, subject digest and version."""

    model_dir: Path
    subject: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Answers by arm since the release began. ``down``: why the challenger does not answer at all,
    where nobody else counts what it fails; empty: it does."""

    champion: Traffic
    canary: Traffic
    shadow: Traffic
    down: str = ""


class Target(Protocol):
    """Each call may be repeated: it leaves what is as it should be alone."""

    def begin(self, challenger: Challenger) -> None:
        """Have the challenger up beside the champion, ready, and its certificate the right one,
        without traffic.

        Raises:
            StateError: it does not become ready.
        """

    def weights(self, percent: int) -> None:
        """Send so much of the traffic to the challenger; entities stay where they were."""

    def shadow(self, on: bool) -> None:
        """Whether the challenger also answers, for nobody, what the champion is asked."""

    def observe(self, slow_seconds: float) -> Observed:
        """What was answered; an answer is slow from ``slow_seconds`` on."""

    def rollback(self) -> None:
        """All traffic to the champion, the challenger gone; nothing where that is so."""

    def promote(self) -> None:
        """The challenger becomes the champion of the target, with no request lost."""
