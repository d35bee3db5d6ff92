"""Figures of a benchmark with their limits, on the page and in a file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Runs = Mapping[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One figure with its limit: ``value <= limit``, or ``>=`` where more is better. No value:
    a contender could not be measured, and the target is missed."""

    name: str
    value: float | None
    limit: float
    more: bool = False

    @property
    def met(self) -> bool:
        """Whether the limit is kept."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.more else self.value <= self.limit


def ratio(runs: Runs, one: str, other: str, what: str) -> float | None:
    """Median over the rounds of one contender's figure over another's, which ran beside it."""
    if not runs.get(one) or not runs.get(other):
        return None
    pairs = zip(runs[one], runs[other], strict=True)
    return statistics.median(a[what] / b[what] for a, b in pairs)


def told(
    found: Sequence[Target], tried: Mapping[str, str], path: Path | None, record: dict[str, Any]
) -> bool:
    """Print every figure with its target, and what was tried where one is missed; write both to
    ``path`` with what was measured. Whether all are met."""
    print()
    width = max(len(target.name) for target in found)
    for target in found:
        sign, verdict = (">=", "<=")[not target.more], "met" if target.met else "MISSED"
        value = "none" if target.value is None else f"{target.value:.3f}"
        print(f"{target.name:{width}} {value:>8} {sign} {target.limit:<6.3g} {verdict}")
    for about, words in tried.items():
        if any(about in target.name and not target.met for target in found):
            print(f"\n{about}: {words}")
    if path:
        targets = [asdict(target) | {"met": target.met} for target in found]
        path.write_text(json.dumps({"targets": targets} | record, indent=2) + "\n")
    return all(target.met for target in found)
