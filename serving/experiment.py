"""An experiment as it is declared: arms, unit, metrics, looks; fixed once it has begun.

A JSON document holds one: ``Experiment.of(json.loads(text))``, ``asdict`` the other way round.
``begin`` stores it in the home, once: what was decided before the data were seen stays decided.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from feature_repo.errors import DeclarationError
from feature_repo.home import Home, write_atomically

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A model version and its share of the units; weights sum to 1."""

    name: str
    version: str
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What is compared: the sum of ``numerator`` over the sum of ``denominator``.

    Without a denominator it is a mean over units, of each unit's sum of outcomes. With one it is a
    ratio of sums over units, such as errors over requests, whose variance is the delta method's.
    ``covariate`` (over ``covariate_denominator``; the mean of a unit's rows) is known before the
    exposure and takes out variance (CUPED); one that the treatment can change biases the effect.
    ``mde``: the least difference that matters, in the metric's own unit.
    """

    name: str
    numerator: str
    mde: float
    denominator: str = ""
    covariate: str = ""
    covariate_denominator: str = ""
    primary: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the outcomes that it reads."""
        named = (self.numerator, self.denominator, self.covariate, self.covariate_denominator)
        return tuple(name for name in named if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Arms (the first is the control), unit, metrics, and when it may be looked at.

    ``unit``: entity keys of a request; all requests of a unit meet one arm. ``window_hours``: a
    unit's outcomes count from its exposure for so long, and a look takes in only units whose
    window is over, so a unit's figures do not change once they count (if the window is long
    enough for outcomes to be reported). ``looks`` planned looks
    are equally spaced from start to end, the last one a window after the end;
    ``planned_units`` (all arms) is what ``plan`` says.

    Raises:
        DeclarationError: names the field, its rule and the way out.
    """

    name: str
    salt: str
    unit: tuple[str, ...]
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    start: datetime
    end: datetime
    planned_units: int
    window_hours: float = 24.0
    alpha: float = 0.05
    looks: int = 1

    def __post_init__(self) -> None:
        for field, fine, rule in _rules(self):
            if not fine:
                raise DeclarationError(
                    f"experiment {self.name!r}: {field} {rule}; mend the declaration before it "
                    "begins"
                )

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Experiment:
        """An experiment from plain data; instants are ISO texts with an offset.

        Raises:
            DeclarationError: a field is missing, unknown, of another type or against its rule.
        """
        try:
            parts = {
                "unit": tuple(document["unit"]),
                "arms": tuple(_known(Arm, arm) for arm in document["arms"]),
                "metrics": tuple(_known(Metric, metric) for metric in document["metrics"]),
                "start": datetime.fromisoformat(document["start"]),
                "end": datetime.fromisoformat(document["end"]),
            }
            made: Experiment = _known(cls, {**document, **parts})
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            known = ", ".join(field.name for field in fields(cls))
            raise DeclarationError(
                f"no experiment can be read from the declaration ({exc}); its fields are {known}"
            ) from exc
        return made

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        times = {"start": self.start.isoformat(), "end": self.end.isoformat()}
        return {**json.loads(json.dumps(asdict(self), default=str)), **times}

    @property
    def window(self) -> timedelta:
        """How long a unit's outcomes count."""
        return timedelta(hours=self.window_hours)

    @property
    def each(self) -> float:
        """Level of one treatment against the control: all of them share alpha evenly."""
        return self.alpha / (len(self.arms) - 1)

    @property
    def look_times(self) -> tuple[datetime, ...]:
        """The planned looks: equal parts of the duration, each a window later."""
        part = (self.end - self.start) / max(self.looks, 1)
        return tuple(self.start + k * part + self.window for k in range(1, self.looks + 1))

    def arm(self, name: str) -> Arm:
        """The arm of that name.

        Raises:
            DeclarationError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        known = ", ".join(arm.name for arm in self.arms)
        raise DeclarationError(f"experiment {self.name!r} has no arm {name!r}: it has {known}")


def begin(home: Home, experiment: Experiment) -> Path:
    """Store a declaration in the home, once; the same one again does nothing.

    A begun experiment is never changed: other weights or another salt would move units that have
    already met an arm, and other metrics, looks or levels would be chosen with data in view.

    Raises:
        DeclarationError: an experiment of this name began with another declaration.
    """
    path = declaration_path(home, experiment.name)
    with home.lock(f"experiment-{experiment.name}"):
        if path.exists():
            begun = load(home, experiment.name)
            told = [f.name for f in fields(Experiment) if _differ(begun, experiment, f.name)]
            if told:
                raise DeclarationError(
                    f"experiment {experiment.name!r} has begun: its {', '.join(told)} cannot "
                    "change; end it, and begin another one under a new name and a new salt"
                )
            return path
        write_atomically(path, json.dumps(experiment.document(), indent=2).encode())
    return path


def load(home: Home, name: str) -> Experiment:
    """A begun experiment.

    Raises:
        DeclarationError: none of that name has begun here.
    """
    path = declaration_path(home, name)
    if not set(name) <= _NAME or not path.exists():
        begun = sorted(p.parent.name for p in home.root.glob("experiments/*/declaration.json"))
        raise DeclarationError(
            f"no experiment {name!r} has begun in {home.root}; those begun: "
            f"{', '.join(begun) or 'none'}"
        )
    return Experiment.of(json.loads(path.read_text()))


def declaration_path(home: Home, name: str) -> Path:
    """Where an experiment's declaration is."""
    return home.root / "experiments" / name / "declaration.json"


def _differ(begun: Experiment, new: Experiment, field: str) -> bool:
    return bool(getattr(begun, field) != getattr(new, field))


def _known(cls: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass; an unknown name and a wrong kind of value are refused."""
    kinds = {"str": str, "float": (int, float), "int": int, "bool": bool}
    for field in fields(cls):
        kind = kinds.get(str(field.type))
        value = values.get(field.name)
        if field.name in values and kind and not _of_kind(value, kind):
            raise TypeError(f"{cls.__name__}.{field.name} is {value!r}, not of type {field.type}")
    return cls(**values)


def _of_kind(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _rules(e: Experiment) -> Iterable[tuple[str, bool, str]]:
    """Field, whether it is as it must be, and the rule."""
    yield "name", bool(e.name) and set(e.name) <= _NAME, "must be lower-case letters, digits, -"
    yield "salt", bool(e.salt), "must not be empty: it makes assignments independent of others'"
    yield "unit", bool(e.unit) and all(e.unit), "must name entity keys of the request"
    yield from _rules_of_arms(e.arms)
    yield from _rules_of_metrics(e.metrics)
    aware = e.start.tzinfo is not None and e.end.tzinfo is not None
    yield "start, end", aware, "must be instants with an offset"
    yield "end", aware and e.start < e.end, "must be after start"
    yield "planned_units", e.planned_units >= 2, "must be at least 2: the workflow plan says it"
    yield "window_hours", 0 <= e.window_hours < math.inf, "must be at least 0 and finite"
    yield "alpha", 0 < e.alpha < 0.5, "must be above 0 and below 0.5"
    yield "looks", 0 <= e.looks <= 100, "must be between 0 (any-time) and 100"


def _rules_of_arms(arms: tuple[Arm, ...]) -> Iterable[tuple[str, bool, str]]:
    names = [arm.name for arm in arms]
    yield "arms", len(arms) >= 2, "must be two or more, the control first"
    yield "arms", len(set(names)) == len(names) and all(names), "must have names that differ"
    # The name goes into a header and is matched there letter by letter.
    yield "arms", all(set(n) <= _NAME for n in names), "must have names of a-z, 0-9, -"
    yield "arms.version", all(arm.version for arm in arms), "must name a model version"
    yield "arms.weight", all(0 < arm.weight < 1 for arm in arms), "must be between 0 and 1"
    total = math.fsum(arm.weight for arm in arms)
    yield "arms.weight", abs(total - 1) < 1e-9, f"must sum to 1, not {total:g}"


def _rules_of_metrics(metrics: tuple[Metric, ...]) -> Iterable[tuple[str, bool, str]]:
    names = sorted(metric.name for metric in metrics)
    yield "metrics", all(a != b for a, b in pairwise(names)), "must have names that differ"
    primary = sum(metric.primary for metric in metrics)
    yield "metrics.primary", primary == 1, f"must be true of one metric, not of {primary}"
    yield "metrics.numerator", all(m.numerator for m in metrics), "must name a column"
    yield "metrics.mde", all(0 < m.mde < math.inf for m in metrics), "must be above 0 and finite"
    both = all(m.covariate or not m.covariate_denominator for m in metrics)
    yield "metrics.covariate_denominator", both, "needs a covariate over it"
