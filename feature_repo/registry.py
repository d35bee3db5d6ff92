"""Every use case, imported statically: the one list, to which a new use case adds its import."""

# ruff: noqa: F401 - what is imported is registered

from feature_repo.contract import UseCase
from feature_repo.errors import DeclarationError
from feature_repo.flights.features import FLIGHTS
from feature_repo.weather.features import WEATHER

USE_CASES: dict[str, UseCase] = {
    found.name: found for found in tuple(globals().values()) if isinstance(found, UseCase)
}


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
