"""What a declaration is: all that a model reads and what functions do, nothing else."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from contract_helpers import hour, hour_plus_one, refused

from feature_repo.contract import DerivedInput, RequestField
from feature_repo.declaration import canonical
from feature_repo.registry import get_use_case

FLIGHTS = get_use_case("flights")


def test_the_declaration_follows_what_a_model_reads() -> None:
    """Another window, field or derived function is another declaration; a gate rule is not."""
    gate = tuple(rule for rule in FLIGHTS.gate if rule.metric.startswith("fallback."))
    same = replace(FLIGHTS, gate=gate, owner="someone else", stale_policy="serve")
    assert same.declaration == FLIGHTS.declaration
    bare = replace(FLIGHTS, derived=(DerivedInput(name="h", function=hour),))
    others = [
        replace(FLIGHTS, features=FLIGHTS.features[1:]),
        replace(FLIGHTS, lag=timedelta(minutes=6)),
        replace(FLIGHTS, auxiliary=None),
        replace(FLIGHTS, fields=(*FLIGHTS.fields, RequestField(name="gate", dtype="string"))),
        bare,
        replace(FLIGHTS, derived=(DerivedInput(name="h", function=hour_plus_one),)),
    ]
    assert len({FLIGHTS.declaration, *(other.declaration for other in others)}) == 7


def declared(folder: Path, text: str) -> str:
    """The declaration of flights with one derived input, whose function is ``text``."""
    path = folder / f"derived_{len(list(folder.iterdir()))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    derived = DerivedInput(name="doubled", function=module.doubled)
    return replace(FLIGHTS, derived=(*FLIGHTS.derived, derived)).declaration


def test_comments_and_layout_are_no_declaration(tmp_path: Path) -> None:
    """What a function does is, and so is what it calls, in a comprehension or through a cache, and
    a constant that it reads."""
    plain = (
        "from functools import cache\nFACTOR, SHIFT = 2, 1\n"
        "@cache\ndef times(x, shift=SHIFT):\n    return FACTOR * x + shift\n"
        "def doubled(columns):\n    return [times(x) for x in columns['distance']]\n"
    )
    same = (
        "from functools import cache\n\nFACTOR, SHIFT = 2, 1  # twice, and one\n\n\n"
        "@cache\ndef times(x, shift=SHIFT):\n    # a comment\n    return FACTOR * x + shift\n\n\n"
        'def doubled(\n    columns,\n):\n    """Twice the distance."""\n'
        '    return [\n        times(x)\n        for x in columns["distance"]  # miles\n    ]\n'
    )
    assert declared(tmp_path, same) == declared(tmp_path, plain)
    changes = (("*", "+"), ("= 2, 1", "= 3, 1"), ("= 2, 1", "= 2, 0"), ("[t", "[-t"))
    for other in (plain.replace(*change) for change in changes):
        assert declared(tmp_path, other) != declared(tmp_path, plain)


def test_the_declaration_is_no_dump_of_a_syntax_tree() -> None:
    """Python 3.13 dumps the same tree as another text than 3.11."""
    derived = FLIGHTS.derived[0]
    assert "FunctionDef" not in canonical(derived)
    assert f"def {derived.function.__name__}(" in canonical(derived)


SCALED = (
    "def scaled(factor):\n    def doubled(columns):\n        return columns['distance'] * factor\n"
    "    return doubled\ndoubled = scaled(2)\n"
)


def test_what_a_function_closes_over_is_declared(tmp_path: Path) -> None:
    """One text for two functions would serve a model with the other one's inputs."""
    assert declared(tmp_path, SCALED) != declared(tmp_path, SCALED.replace("(2)", "(3)"))
    assert declared(tmp_path, SCALED) == declared(tmp_path, SCALED)
    wraps = (
        "from functools import wraps\ndef times(factor):\n    def outer(f):\n        @wraps(f)\n"
        "        def inner(columns):\n            return factor * f(columns)\n"
        "        return inner\n    return outer\n"
        "def one(columns):\n    return columns['distance']\ndoubled = times(2)(one)\n"
    )
    others = [wraps, wraps.replace("times(2)", "times(3)"), wraps.replace("dist", "inst")]
    assert len({declared(tmp_path, text) for text in others}) == 3
    given = "def make(k):\n    return lambda columns, k=k: columns[k]\ndoubled = make('a')\n"
    assert declared(tmp_path, given) != declared(tmp_path, given.replace("'a'", "'b'"))
    default = "ONE = 1\ndef doubled(columns, add=lambda x: x + ONE):\n    return add(columns)\n"
    assert declared(tmp_path, default) != declared(tmp_path, default.replace("= 1", "= 2"))


def test_annotations_are_no_declaration(tmp_path: Path) -> None:
    """They do nothing, and their texts are numpy's, which may change with its version."""
    told = (
        "import typing\nimport numpy as np\nArray = np.ndarray[typing.Any, np.dtype[typing.Any]]\n"
        "def doubled(columns: Array) -> Array:\n    twice: Array = columns['distance']\n"
        "    def add(x: Array) -> Array:\n        return x + x\n    return add(twice)\n"
    )
    bare = told.replace(" -> Array", "").replace(": Array", "")
    assert declared(tmp_path, told) == declared(tmp_path, bare)
    assert "numpy.dtype" not in canonical(FLIGHTS.derived)


def test_recursion_ends(tmp_path: Path) -> None:
    """Two functions that call one another, a function that calls itself."""
    pair = (
        "def odd(n):\n    return n and doubled(n - 1)\n"
        "def doubled(n):\n    return not n or odd(n - 1)\n"
    )
    assert declared(tmp_path, pair) != declared(tmp_path, pair.replace("and", "or"))
    alone = "def doubled(n):\n    return n and doubled(n - 1)\n"
    assert declared(tmp_path, alone) == declared(tmp_path, alone)


@pytest.mark.parametrize(
    "value",
    [
        "frozenset({'EWR', 'JFK'})", "object()", "functools.partial(max, 1)", "''.join",
        "np.arange(3)", "np.vectorize(len)", "{'a': object()}", "eval('lambda: 1')",
    ],
)  # fmt: skip
def test_a_value_without_a_stable_text_is_refused(tmp_path: Path, value: str) -> None:
    """Its repr differs per process, so a model could never be served."""
    text = (
        f"import functools\nimport numpy as np\nVALUE = {value}\n"
        "def doubled(columns):\n    return VALUE\n"
    )
    refused(lambda: declared(tmp_path, text), "'VALUE' of doubled", "plain function (def)")


@pytest.mark.parametrize(
    "text",
    [
        "from feature_repo import ticks\ndef doubled(columns):\n    return ticks.aware(columns)\n",
        "def doubled(columns):\n    from feature_repo import ticks\n    return ticks.EPOCH\n",
        "def doubled(columns):\n    import feature_repo.ticks as t\n    return t.aware(columns)\n",
    ],
)
def test_what_a_function_reaches_through_a_module_is_refused(tmp_path: Path, text: str) -> None:
    """Its code is not seen, so models could not tell that it changed; numpy and the standard
    library are what their names say."""
    refused(lambda: declared(tmp_path, text), "doubled reads the module 'feature_repo", "import")
    plain = (
        "import math\ndef doubled(columns):\n    import numpy as np\n    return np.abs(math.pi)\n"
    )
    assert declared(tmp_path, plain) != FLIGHTS.declaration


def test_functions_of_numpy_and_tables_of_constants_are_told(tmp_path: Path) -> None:
    """By name and by content."""
    text = (
        "from numpy import add, where\nfrom math import floor\n"
        "ZONES = {'EWR': 1, 'JFK': [2, None], 'LGA': floor}\n"
        "def doubled(columns):\n    return where(True, add, ZONES)\n"
    )
    changes = (("where\n", "abs as where\n"), ("[2", "[3"), ("'LGA'", "'LAX'"))
    others = {declared(tmp_path, text.replace(*change)) for change in changes}
    assert len({declared(tmp_path, text), *others}) == 4
    assert declared(tmp_path, text) == declared(tmp_path, text)
