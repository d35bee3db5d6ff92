"""A sweep's search space and budget: what is refused before anything is trained."""

from __future__ import annotations

import json
import math

import pytest
import rich_click as click
from flytekit.interaction.click_types import JsonParamType
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from feature_repo.errors import TrainingError
from tasks.sweep import check_sweep
from tasks.sweeps.declared import Budget, Spent
from tasks.sweeps.space import chosen_of, config_of, count, read_space
from tasks.types import DEFAULT_CONFIG, TrainingConfig
from workflows import flights, weather

CONFIG = TrainingConfig()


def test_texts_become_distributions_of_their_field_s_type() -> None:
    """Ranges by logarithm or evenly, and choices, of whole numbers and of fractions."""
    space = {
        "learning_rate": "log 1e-4 1e-2",
        "dropout": "linear 0 0.5",
        "width": "64 128, 256",
        "layers": "linear 1 4",
        "batch_size": "log 256 4096",
    }
    assert read_space(space, CONFIG) == {
        "batch_size": IntDistribution(256, 4096, log=True),
        "dropout": FloatDistribution(0.0, 0.5),
        "layers": IntDistribution(1, 4),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "width": CategoricalDistribution([64, 128, 256]),
    }


@pytest.mark.parametrize(
    ("field", "text", "parts"),
    [
        (
            "learning_rat",
            "log 1e-4 1e-2",
            ("'learning_rat' is no field of the config", "it may name batch_size, learning_rate"),
        ),
        ("epochs", "linear 1 9", ("'epochs'", "pruning counts", "it may name")),
        ("seed", "1 2 3", ("'seed'", "lucky seed")),
        ("dropout", "linear 0 1", ("dropout is 1.0", "below 1")),
        ("width", "0 64", ("width is 0", "at least 1")),
        ("model", "mlp tabm", ("'model'", "name one in the config")),
        ("members", "4 8", ("'members' is not read by the model 'mlp'", "width, layers, dropout")),
        ("precision", "bfloat16 float8", ("precision is 'float8'", "one of float32, bfloat16")),
        ("precision", "log float32 float64", ("a range of two numbers",)),
        ("width", "64.5 128", ("width", "whole numbers", "64.5")),
        ("width", "wide 64", ("width", "type int", "wide")),
        ("width", "64", ("width is '64'", "two different values", "put")),
        ("width", "64 64", ("two different values",)),
        ("width", "", ("two different values",)),
        ("learning_rate", "log 1e-2 1e-4", ("the lower one first", "log LOW HIGH")),
        ("learning_rate", "log 1e-2", ("a range of two numbers",)),
        ("weight_decay", "log 0 1", ("begin above 0", "logarithm")),
        ("learning_rate", "log nan 1", ("learning_rate is nan", "above 0")),
    ],
)
def test_an_impossible_space_is_refused(field: str, text: str, parts: tuple[str, ...]) -> None:
    """With the field, the rule and the way out."""
    with pytest.raises(TrainingError) as caught:
        read_space({field: text}, CONFIG)
    for part in parts:
        assert part in str(caught.value)


def test_an_empty_space_is_refused() -> None:
    """There is nothing to search."""
    with pytest.raises(TrainingError, match="the search space is empty"):
        read_space({}, CONFIG)


def test_the_base_config_lies_in_the_space() -> None:
    """So that a sweep never ends worse than what was there."""
    space = {"learning_rate": "log 1e-4 1e-2", "width": "128 256"}
    found = read_space(space, CONFIG)
    assert chosen_of(CONFIG, found) == {"learning_rate": 4e-3, "width": 256}
    inputs = {"trials": 2, "workers": 1, "budget": Budget(), "where": "processes", "own": {}}
    outside = config_of(CONFIG, {"width": 64, "learning_rate": 0.1})
    with pytest.raises(TrainingError, match=r"its learning_rate 0.1, width 64, .*; widen the"):
        check_sweep(config=outside, space=space, **inputs)


def test_a_space_with_too_few_configurations_is_refused() -> None:
    """Trials would repeat each other."""
    space = {"width": "64 128", "layers": "linear 1 3"}
    assert count(read_space(space, CONFIG)) == 6
    assert count(read_space(space | {"dropout": "linear 0 0.1"}, CONFIG)) == math.inf
    inputs = {
        "config": CONFIG, "workers": 1, "budget": Budget(), "where": "processes", "own": {},
    }  # fmt: skip
    space |= {"width": "64 256"}
    assert check_sweep(space=space, trials=6, **inputs) == space
    with pytest.raises(TrainingError, match=r"holds 6 configurations, .* less than 7 trials"):
        check_sweep(space=space, trials=7, **inputs)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trials": 0}, "trials is 0, but must be at least 1"),
        ({"workers": 0}, "workers is 0, but must be at least 1"),
        ({"where": "cloud"}, "where is 'cloud', but must be processes or pods"),
    ],
)
def test_impossible_numbers_are_refused(changed: dict[str, object], said: str) -> None:
    """Before features are computed."""
    inputs: dict[str, object] = {
        "config": CONFIG, "space": {"dropout": "linear 0 0.5"}, "trials": 2, "workers": 1,
        "budget": Budget(), "where": "pods", "own": {},
    }  # fmt: skip
    with pytest.raises(TrainingError, match=said):
        check_sweep(**(inputs | changed))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"trials": 4}, "no field 'trials'"),
        ({"seconds": "many"}, "'seconds' with the value 'many'"),
        ({"seconds": -1}, "seconds is -1"),
        ({"money": 5}, "give cpu_second, gpu_second or both"),
    ],
)
def test_an_impossible_budget_is_refused(budget: dict[str, object], said: str) -> None:
    """As it arrives from the command line."""
    context = click.Context(click.Command("sweep"))
    with pytest.raises(TrainingError, match=said):
        JsonParamType(Budget).convert(json.dumps(budget), None, context)


def test_a_budget_is_spent_in_seconds_or_in_money() -> None:
    """Whichever comes first; no limit where none is given."""
    taken = Spent(10.0, 20.0, 5.0) + Spent(1.0, 2.0, 0.0)
    assert taken == Spent(11.0, 22.0, 5.0)
    assert not taken.over(Budget())
    assert taken.over(Budget(seconds=11))
    assert not taken.over(Budget(seconds=12))
    priced = Budget(money=3, cpu_second=0.1, gpu_second=0.2)
    assert taken.money(priced) == pytest.approx(3.2)
    assert taken.over(priced)
    assert not taken.over(Budget(money=3.3, cpu_second=0.1, gpu_second=0.2))


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (flights.SPACES, DEFAULT_CONFIG),
        (flights.SPACES, TrainingConfig.from_dict({"model": "tabm"})),
        (weather.SPACES, weather.WEATHER_CONFIG),
    ],
)
def test_the_workflows_own_spaces_hold_their_configs(
    own: dict[str, dict[str, str]], config: TrainingConfig
) -> None:
    """The first trial is what was there before."""
    found = check_sweep(
        config=config, space={}, own=own, trials=40, workers=1, budget=Budget(), where="pods"
    )
    assert found == own[config.model]
