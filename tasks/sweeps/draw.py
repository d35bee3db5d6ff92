"""What a sweep tries next: TPE's draw, but no parameters that a trial had before."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import optuna

from tasks.sweeps.space import at, count

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from tasks.sweeps.declared import Sweep

DRAWS = 5  # of TPE, which over choices comes back to what it has; then an untried one by chance


def parameters(trial: FrozenTrial) -> dict[str, Any]:
    """Those of a trial, also of one whose worker died before it had them all."""
    return dict(trial.system_attrs.get("fixed_params", trial.params))


def draw(
    sweep: Sweep, trials: list[FrozenTrial], distributions: Mapping[str, BaseDistribution]
) -> dict[str, Any] | None:
    """Parameters that none of ``trials`` had; None: the space holds no others."""
    tried = {_key(parameters(trial)) for trial in trials}
    if len(tried) >= count(distributions):
        return None
    chance = _seed(sweep, len(trials))
    # In a copy, so that what is drawn in vain is no trial of the study. Without Hyperband, under
    # which the sampler would learn from the trials of one bracket only: too few.
    copy = optuna.create_study(
        sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=chance),
        pruner=optuna.pruners.NopPruner(),
    )
    copy.add_trials(trials)
    for _ in range(DRAWS):
        drawn = copy.ask(dict(distributions)).params
        if _key(drawn) not in tried:
            return drawn
    total, by_chance = count(distributions), random.Random(chance)  # noqa: S311 -- no secret
    while not math.isinf(total) and _key(drawn) in tried:
        drawn = at(by_chance.randrange(int(total)), distributions)
    return drawn


def _key(parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(parameters.items()))


def _seed(sweep: Sweep, number: int) -> int:
    """Of the trial, so that workers never draw alike, and one worker draws alike again."""
    told = f"{sweep.name} {sweep.config.seed} {number}"
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4])
