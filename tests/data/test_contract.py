"""Declarations that cannot work are refused when they are made."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_repo.checks import check_sql
from feature_repo.contract import (
    DerivedInput,
    Entity,
    FeatureSpec,
    RawTable,
    RequestField,
    UseCase,
)
from feature_repo.declaration import canonical
from feature_repo.errors import DeclarationError
from feature_repo.registry import USE_CASES, by_name, get_use_case

FLIGHTS = get_use_case("flights")
FIRST = FLIGHTS.features[0]
LAST = next(spec for spec in FLIGHTS.features if spec.aggregation == "last")
WINDOWED = next(spec for spec in FLIGHTS.features if spec.view == "origin_arrivals")


def hour(columns: Any) -> Any:
    """An hour."""
    return np.zeros(len(columns["origin"]))


def hour_plus_one(columns: Any) -> Any:
    """Another hour."""
    return np.ones(len(columns["origin"]))


def with_feature(spec: FeatureSpec, **changes: Any) -> Callable[[], UseCase]:
    """FLIGHTS with one changed feature and no other."""
    return lambda: replace(FLIGHTS, features=(replace(spec, **changes),))


def with_log(spec: FeatureSpec, **changes: Any) -> Callable[[], UseCase]:
    """FLIGHTS with one feature over a changed log."""
    return with_feature(spec, log=replace(spec.log, **changes))


def bare_sql(*columns: str) -> str:
    """A log's SELECT of these columns."""
    return f"select {', '.join(columns)} from flights"


def refused(make: Callable[[], object], *parts: str) -> None:
    """The message names the use case's part, the rule and the way out; it survives a pickle."""
    with pytest.raises(DeclarationError) as caught:
        make()
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text  # noqa: S301 - ours


GATE = Entity(name="gate", keys=("gate",))
OTHER_ORIGIN = Entity(name="origin", keys=("origin", "carrier"))
OTHER_LOG = replace(WINDOWED.log, ttl=timedelta(days=1))
KEYS = ("origin", "dest", "carrier", "flight")


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: replace(FLIGHTS, features=(FIRST, FIRST)), (FIRST.name, "twice", "rename")),
        (
            lambda: replace(FLIGHTS, derived=(DerivedInput(name="origin", function=hour),)),
            ("'origin'", "twice"),
        ),
        (with_feature(FIRST, name="Mean delay"), ("'Mean delay'", "stand in SQL", "letters")),
        *(
            (with_feature(FIRST, name=name), (f"'{name}'", "reserved", "rename"))
            for name in ("tick", "label", "event_timestamp", "created_timestamp", "split")
        ),
        *(
            (with_feature(WINDOWED, name=name), (f"'{name}'", "collides with a source column"))
            for name in ("arr_delay", "late", "at", "date")
        ),
        (with_feature(FIRST, name="dest"), ("'dest'", "twice")),
        (
            lambda: replace(FLIGHTS, fields=(*FLIGHTS.fields, RequestField(
                name="request_id", dtype="string"))),
            ("'request_id'", "reserved"),
        ),
        (
            lambda: replace(FLIGHTS, features=(
                FIRST, replace(FIRST, name="other", entity=OTHER_ORIGIN))),
            ("entity 'origin'", "differ", "rename"),
        ),
        (
            lambda: replace(FLIGHTS, features=(
                WINDOWED, replace(WINDOWED, name="other", log=OTHER_LOG))),
            (f"event log {WINDOWED.log.name!r}", "differ", "rename"),
        ),
        (lambda: replace(FLIGHTS, slices=("altitude",)), ("altitude", "no request field")),
        (with_feature(FIRST, entity=GATE), (FIRST.name, "'gate'", "add it to fields")),
        (with_feature(FIRST, entity=Entity(name="all", keys=())), ("'all'", "has no key")),
        (
            with_log(FIRST, sql=bare_sql(*KEYS, "delta", "event_timestamp")),
            (FIRST.name, "'pending'", "'available_at'", "the future leaks", "SELECT"),
        ),
        (
            with_log(FIRST, sql=bare_sql(*KEYS, "delta", "available_at")),
            (FIRST.name, "'pending'", "'event_timestamp'", "when the fact happened"),
        ),
        (with_feature(FIRST, value="waiting"), (FIRST.name, "value 'waiting'", "not yield")),
        (
            with_feature(WINDOWED, aggregation="mean", weight="seats"),
            (WINDOWED.name, "weight 'seats'", "not yield"),
        ),
        (with_log(FIRST, tie_break=("serial",)), (FIRST.name, "tie-break 'serial'")),
        (
            with_feature(FIRST, entity=Entity(name="tail", keys=("tailnum",))),
            (FIRST.name, "key of entity 'tail' 'tailnum'", "'pending'", "not yield"),
        ),
        (with_feature(LAST, window=timedelta(hours=1)), (LAST.name, "no window", "ttl")),
        (
            with_feature(WINDOWED, window=timedelta(minutes=20)),
            (WINDOWED.name, "0:20:00", "multiple of the tick"),
        ),
        (
            with_feature(WINDOWED, window=timedelta(minutes=5)),
            (WINDOWED.name, "shorter than the tick of 0:15:00", "multiple of the tick"),
        ),
        (with_feature(WINDOWED, window=-timedelta(hours=1)), (WINDOWED.name, "shorter")),
        (with_feature(FIRST, decimals=19), (FIRST.name, "decimals 19", "0 to 18")),
        (
            lambda: replace(FLIGHTS, features=(FIRST, replace(FIRST, name=f"{FIRST.name}_top"))),
            (f"'{FIRST.name}_top'", "carries on", "rename"),
        ),
        (
            lambda: replace(FLIGHTS, tables=(*FLIGHTS.tables, RawTable(name="_held", key=()))),
            ("raw table '_held'", "cannot stand in SQL"),
        ),
        (with_feature(FIRST, bounds=(1.0, 0.0)), (FIRST.name, "(1.0, 0.0)", "reversed")),
        (with_feature(FIRST, bounds=(float("nan"), 1.0)), (FIRST.name, "not numbers")),
        (
            lambda: replace(FLIGHTS, fields=(
                *FLIGHTS.fields, RequestField(name="seats", dtype="number", bounds=(9, 1)))),
            ("'seats'", "(9, 1)", "reversed"),
        ),
        *(
            (
                with_feature(LAST, aggregation=aggregation, weight=LAST.value),
                (LAST.name, f"'{aggregation}' takes no weight", "drop it"),
            )
            for aggregation in ("count", "last")
        ),
        (lambda: replace(FLIGHTS, lag=timedelta(minutes=-5)), ("'flights'", "lag", "negative")),
        (
            lambda: replace(FLIGHTS, lag=timedelta(seconds=1.5)),
            ("'flights'", "lag", "whole number of seconds", "round it"),
        ),
        (lambda: replace(FLIGHTS, tick=timedelta(0)), ("'flights'", "tick", "above zero")),
        (lambda: get_use_case("trains"), ("'trains'", "flights, weather", "registry.py")),
    ],
)  # fmt: skip
def test_refused(make: Callable[[], UseCase], parts: tuple[str, ...]) -> None:
    """When the use case is made, before anything runs."""
    refused(make, *parts)


def test_two_use_cases_of_one_name_are_refused() -> None:
    """The second would hide the first; one that is imported twice is one."""
    refused(lambda: by_name([FLIGHTS, replace(FLIGHTS, label="later")]), "'flights'", "rename")
    assert by_name([FLIGHTS, FLIGHTS, 1]) == {"flights": FLIGHTS}


def test_a_view_is_no_raw_table() -> None:
    """Entity and log name the view: it must not hide what the log reads."""
    log = replace(FIRST.log, name="status")
    spec = replace(FIRST, entity=Entity(name="flight", keys=("origin",)), log=log)
    tables = (*FLIGHTS.tables, RawTable(name="flight_status", key=("flight",)))
    refused(lambda: replace(FLIGHTS, features=(spec,), tables=tables), "'flight_status'", "raw")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        # Named in a comment only: the parser is not fooled.
        (
            {"sql": bare_sql(*KEYS, "delta", "scheduled", "event_timestamp") + " -- available_at"},
            ("'pending'", "'available_at'", "the future leaks"),
        ),
        ({"sql": f"select *, 1 as delta from ({FIRST.log.sql})"}, ("'pending'", "name the col")),
        ({"sql": FIRST.log.sql.replace("from flights", "from fleet")}, ("'fleet'", "to tables")),
        ({"sql": FIRST.log.sql.replace("select", "choose")}, ("'pending'", "cannot be parsed")),
        ({"sql": FIRST.log.sql.replace("1.0D", "rand()")}, ("RAND()", "something else each time")),
        ({"sql": FIRST.log.sql.replace("1.0D", "cast(2.7 as int)")}, ("CAST(2.7 AS INT)", "floor")),
        ({"sql": FIRST.log.sql.replace("1.0D", "27 div 10")}, ("'pending'", "rounded on DuckDB")),
        ({"sql": FIRST.log.sql.replace("1.0D", "unix_seconds(now())")}, ("NOW()", "raw table")),
        (
            {"sql": FIRST.log.sql.replace("as scheduled", "as scheduled, 1 as _tick")},
            ("'pending'", "'_tick'", "begins with _"),
        ),
        ({"sql": f"-- {FIRST.log.sql.split()}\ndrop table flights"}, ("no SELECT",)),
    ],
)
def test_the_sql_of_a_log_is_held_against_its_features(
    changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    """What only a parser can tell, in the first step of a run."""
    refused(lambda: check_sql(with_log(FIRST, **changes)()), "'flights'", *parts)


def test_the_sql_of_the_requests_is_held_against_the_fields() -> None:
    """A field that no request states."""
    field = RequestField(name="seats", dtype="number")
    use_case = replace(FLIGHTS, fields=(*FLIGHTS.fields, field))
    refused(lambda: check_sql(use_case), "requests_sql", "'seats'", "add it to the SELECT")


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_every_registered_use_case_yields_what_it_reads(use_case: UseCase) -> None:
    """The exact check of the SQL, without data."""
    check_sql(use_case)


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
