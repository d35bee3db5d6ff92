"""What a sweep searches: texts over the fields of ``TrainingConfig``, checked and typed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, get_type_hints

from feature_repo.errors import TrainingError
from tasks.types import TrainingConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = int | float | str
RANGES = ("log", "linear")
# What a sweep may not choose, and why.
FIXED = {
    "epochs": "it is what pruning counts",
    "seed": "a lucky seed is no better model",
    "sharding": "it does not change what is learned",
    "model": "each has values of its own; name one in the config, and run a sweep for each",
}
# What only one model reads: for another, trials would differ in nothing.
READ_BY = dict.fromkeys(("members", "bins", "embedding", "feature_fraction"), "tabm")
FORM = (
    "a range is 'log LOW HIGH' or 'linear LOW HIGH', a choice is its values, as in "
    '{"learning_rate": "log 1e-4 1e-2", "width": "64 128 256"}'
)


def read_space(space: Mapping[str, str], config: TrainingConfig) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each field, in order of name.

    Raises:
        TrainingError: nothing is searched, a field is unknown, fixed or not read, a text is no
            range and no choice, or a value breaks its field's bounds.
    """
    if not space:
        raise TrainingError(f"the search space is empty: name a field or more; {FORM}")
    return {name: _distribution(name, space[name], config) for name in sorted(space)}


def count(distributions: Mapping[str, BaseDistribution]) -> float:
    """How many configurations there are; infinite with a range of fractions."""
    return math.prod(_size(distribution) for distribution in distributions.values())


def at(index: int, distributions: Mapping[str, BaseDistribution]) -> dict[str, Value]:
    """The configuration of this number, from 0, of a space that ``count`` counts."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    chosen: dict[str, Value] = {}
    for name, distribution in distributions.items():
        index, place = divmod(index, int(_size(distribution)))
        if isinstance(distribution, CategoricalDistribution):
            chosen[name] = distribution.choices[place]  # type: ignore[assignment]  # ``_value``'s
        elif isinstance(distribution, IntDistribution):
            chosen[name] = distribution.low + place
    return chosen


def config_of(config: TrainingConfig, chosen: Mapping[str, Value]) -> TrainingConfig:
    """``config`` with the fields that were chosen."""
    return replace(config, **chosen)  # type: ignore[arg-type]  # checked by its own bounds


def chosen_of(
    config: TrainingConfig, distributions: Mapping[str, BaseDistribution]
) -> dict[str, Value]:
    """The searched fields of ``config``, which is the first trial.

    Raises:
        TrainingError: one lies outside of the space, which might then hold nothing as good.
    """
    chosen = {name: getattr(config, name) for name in distributions}
    outside = [name for name, value in chosen.items() if not _holds(distributions[name], value)]
    if outside:
        told = ", ".join(f"{name} {chosen[name]}" for name in outside)
        raise TrainingError(
            f"the config lies outside of the search space with its {told}, but is the first trial, "
            f"so that no sweep ends worse than it; widen the space's {', '.join(outside)}, or give "
            "the config values within"
        )
    return chosen


def _distribution(name: str, text: str, config: TrainingConfig) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    hints = get_type_hints(TrainingConfig)
    kinds = {field.name: hints[field.name] for field in fields(TrainingConfig)}
    unread = {field for field, model in READ_BY.items() if model != config.model}
    if name not in kinds or name in FIXED or name in unread:
        free = ", ".join(field for field in kinds if field not in FIXED and field not in unread)
        why = f"cannot be searched: {FIXED[name]}" if name in FIXED else "is no field of the config"
        if name in kinds and name in unread:
            why = f"is not read by the model {config.model!r}, but by {READ_BY[name]!r}"
        raise TrainingError(f"the search space's {name!r} {why}; it may name {free}")
    words = text.replace(",", " ").split()
    kind, is_range = kinds[name], bool(words) and words[0] in RANGES
    values = [_value(name, kind, word, config) for word in words[is_range:]]
    if not is_range:
        if len(set(values)) < 2 or len(set(values)) < len(values):
            raise _refused(
                name,
                text,
                "must be two different values or more (a single one: put it into the config)",
            )
        return CategoricalDistribution(values)
    if kind not in (int, float) or len(values) != 2 or not _rises(values):
        raise _refused(name, text, "must be a range of two numbers, the lower one first")
    low, high = (float(value) for value in values)
    if words[0] == "log" and low <= 0:
        raise _refused(name, text, "must begin above 0 to be searched by its logarithm")
    if kind is int:
        return IntDistribution(int(low), int(high), log=words[0] == "log")
    return FloatDistribution(low, high, log=words[0] == "log")


def _value(name: str, kind: type, word: str, config: TrainingConfig) -> Value:
    """A word as a value of its field, held against the field's own bounds."""
    try:
        number = float(word) if kind is not str else math.nan
        value: Value = word if kind is str else int(number) if kind is int else number
        whole = kind is not int or number == value
    except (ValueError, OverflowError):
        raise _refused(name, word, f"must hold values of type {kind.__name__}") from None
    if not whole:
        raise _refused(name, word, "must hold whole numbers")
    try:
        replace(config, **{name: value})  # type: ignore[arg-type]
    except TrainingError as exc:
        raise TrainingError(f"the search space: {exc}") from exc
    return value


def _rises(values: list[Value]) -> bool:
    return float(values[0]) < float(values[1])


def _refused(name: str, text: str, rule: str) -> TrainingError:
    return TrainingError(f"the search space's {name} is {text!r}, but {rule}; {FORM}")


def _size(distribution: BaseDistribution) -> float:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return distribution.high - distribution.low + 1
    return math.inf


def _holds(distribution: BaseDistribution, value: Value) -> bool:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)  # noqa: S101
    return distribution.low <= float(value) <= distribution.high
