"""Every use case, imported statically: the one list, to which a new use case adds its import."""

# ruff: noqa: F401 - what is imported is registered

from collections.abc import Iterable

from feature_repo.contract import UseCase
from feature_repo.errors import DeclarationError
from feature_repo.flights.features import FLIGHTS
from feature_repo.weather.features import WEATHER


def by_name(found: Iterable[object]) -> dict[str, UseCase]:
    """The use cases among what is found.

    Raises:
        DeclarationError: two have one name.
    """
    named: dict[str, UseCase] = {}
    for case in found:
        if isinstance(case, UseCase) and named.setdefault(case.name, case) is not case:
            raise DeclarationError(
                f"two use cases are named {case.name!r}, and state, models and answers are kept "
                "by name: rename one in its feature_repo/<name>/features.py"
            )
    return named


USE_CASES: dict[str, UseCase] = by_name(tuple(globals().values()))


def get_use_case(name: str) -> UseCase:
    """The use case called ``name``.

    Raises:
        DeclarationError: there is none.
    """
    if name not in USE_CASES:
        raise DeclarationError(
            f"there is no use case {name!r}; known are {', '.join(sorted(USE_CASES))}: declare it "
            "in feature_repo/<name>/features.py and import it in feature_repo/registry.py"
        )
    return USE_CASES[name]
