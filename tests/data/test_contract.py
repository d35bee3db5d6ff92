"""Declarations that cannot work are refused when they are made."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from feature_repo.contract import DerivedInput, Entity, RequestField, UseCase
from feature_repo.errors import DeclarationError
from feature_repo.registry import USE_CASES, get_use_case

FLIGHTS = get_use_case("flights")
FIRST = FLIGHTS.features[0]
LAST = next(spec for spec in FLIGHTS.features if spec.aggregation == "last")
WINDOWED = next(spec for spec in FLIGHTS.features if spec.window is not None)


def hour(columns: Any) -> Any:
    """An hour."""
    return np.zeros(len(columns["origin"]))


def hour_plus_one(columns: Any) -> Any:
    """Another hour."""
    return np.ones(len(columns["origin"]))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: replace(FLIGHTS, features=(FIRST, FIRST)), (FIRST.name, "twice")),
        (
            lambda: replace(FLIGHTS, derived=(DerivedInput(name="origin", function=hour),)),
            ("'origin'", "twice"),
        ),
        (lambda: replace(FLIGHTS, slices=("altitude",)), ("altitude", "no request field")),
        (
            lambda: replace(
                FLIGHTS,
                features=(replace(FIRST, entity=Entity(name="gate", keys=("gate",))),),
            ),
            (FIRST.name, "'gate'", "add it to fields"),
        ),
        (
            lambda: replace(FLIGHTS, features=(replace(LAST, window=timedelta(hours=1)),)),
            (LAST.name, "no window"),
        ),
        (
            lambda: replace(FLIGHTS, features=(replace(WINDOWED, window=timedelta(minutes=20)),)),
            (WINDOWED.name, "0:20:00", "multiple of the tick"),
        ),
        (
            lambda: replace(FLIGHTS, features=(replace(WINDOWED, window=timedelta(minutes=5)),)),
            (WINDOWED.name, "multiple of the tick"),
        ),
        (lambda: get_use_case("trains"), ("'trains'", "flights, weather", "registry.py")),
    ],
)
def test_refused(make: Callable[[], UseCase], parts: tuple[str, ...]) -> None:
    """The message names the use case's part, the rule and the way out; it survives a pickle."""
    with pytest.raises(DeclarationError) as caught:
        make()
    assert all(part in str(caught.value) for part in parts)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - ours


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_every_feature_is_described_and_bounded(use_case: UseCase) -> None:
    """A card and a data contract without gaps."""
    for spec in use_case.features:
        assert spec.description
        assert np.isfinite(spec.bounds).all(), spec.name
    assert all(field.description for field in use_case.fields)


def test_the_declaration_follows_what_a_model_reads() -> None:
    """Another window, field or derived function is another declaration; a gate rule is not."""
    same = replace(FLIGHTS, gate=(), owner="someone else", stale_policy="serve")
    assert same.declaration == FLIGHTS.declaration
    bare = replace(FLIGHTS, derived=(DerivedInput(name="h", function=hour),))
    others = [
        replace(FLIGHTS, features=FLIGHTS.features[1:]),
        replace(FLIGHTS, lag=timedelta(minutes=6)),
        replace(FLIGHTS, fields=(*FLIGHTS.fields, RequestField(name="gate", dtype="string"))),
        bare,
        replace(FLIGHTS, derived=(DerivedInput(name="h", function=hour_plus_one),)),
    ]
    assert len({FLIGHTS.declaration, *(other.declaration for other in others)}) == 6
