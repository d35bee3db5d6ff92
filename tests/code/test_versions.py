"""Semantic versions: what changed decides the number, and no number is used twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from toy import TOY

from feature_repo.contract import RequestField, UseCase
from tasks.versions import interface, next_version, parse


def facts(version: str = "", case: UseCase = TOY, **config: Any) -> dict[str, Any]:
    return {
        "version": version,
        "features": {"interface": interface(case), "declaration": case.declaration},
        "config": {"architecture": "mlp", "width": 192, **config},
    }


MORE = replace(TOY, fields=(*TOY.fields, RequestField(name="dest", dtype="string")))


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (facts(), "1.2.4"),
        (facts(width=256), "1.3.0"),
        (facts(architecture="tabm"), "1.3.0"),
        (facts(case=replace(TOY, features=TOY.features[:1])), "1.3.0"),
        (facts(case=replace(TOY, threshold=0.4)), "2.0.0"),
        (facts(case=replace(TOY, label="cancelled")), "2.0.0"),
        (facts(case=replace(TOY, unit="minutes")), "2.0.0"),
        (facts(case=replace(TOY, task="regression")), "2.0.0"),
        (facts(case=MORE), "2.0.0"),
        (facts(case=MORE, width=256), "2.0.0"),
    ],
)
def test_what_changed_decides(new: dict[str, Any], expected: str) -> None:
    assert next_version(facts("1.2.3"), new, {"1.2.3"}) == expected


def test_the_first_is_1_0_0() -> None:
    assert next_version(None, facts(), set()) == "1.0.0"


@pytest.mark.parametrize(
    ("new", "existing", "expected"),
    [
        (facts(), {"1.0.0", "1.0.1", "1.0.2"}, "1.0.3"),
        (facts(width=1), {"1.0.0", "1.1.0"}, "1.2.0"),
        (facts(case=MORE), {"1.0.0", "2.0.0"}, "3.0.0"),
    ],
)
def test_a_number_is_never_used_twice(
    new: dict[str, Any], existing: set[str], expected: str
) -> None:
    assert next_version(facts("1.0.0"), new, existing) == expected


def test_versions_sort_as_numbers() -> None:
    assert sorted(["1.10.0", "1.9.0", "1.2.0"], key=parse) == ["1.2.0", "1.9.0", "1.10.0"]
