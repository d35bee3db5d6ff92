"""Questions by the model's full input vector: the caller looked the features up itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import RequestError
from serving.instances import MAX_STRING

if TYPE_CHECKING:
    from feature_repo.inputs import Array, Inputs
    from serving.tensors import Tensor

NUMERIC, CATEGORICAL = "numeric", "categorical"
_NAN = float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """n checked vectors: float64 [n, numeric], NaN where missing, and the values [n] of each
    categorical input."""

    numeric: Array
    texts: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.numeric)


def vectors_of(instances: Sequence[Any], inputs: Inputs, plain: bool) -> Vectors:
    """Checked vectors from V1 instances ``{"numeric": [...], "categorical": [...]}``; a numeric
    value may be null: missing. ``plain``: the body held neither ``true`` nor ``false``, which
    numpy would take for numbers.

    Raises:
        RequestError: 422 names the instance, and the input where one value is wrong.
    """
    width, count = len(inputs.numeric), len(inputs.categorical)
    try:
        rows = [instance[NUMERIC] for instance in instances]
        texts = [instance[CATEGORICAL] for instance in instances] if count else []
        if plain and set(map(len, instances)) == {1 + (count > 0)} and _are_texts(texts, count):
            numeric = _numbers(rows, width)
            if numeric is not None:
                return Vectors(numeric=numeric, texts=list(zip(*texts, strict=True)))
    except (KeyError, TypeError, OverflowError, struct.error):
        pass  # whatever is wrong with it is found and named below
    checked = [_checked(i, instance, inputs) for i, instance in enumerate(instances)]
    return Vectors(
        numeric=np.array([values for values, _ in checked], dtype=np.float64).reshape(-1, width),
        texts=list(zip(*(words for _, words in checked), strict=True)),
    )


def vectors_of_tensors(tensors: Mapping[str, Tensor], inputs: Inputs) -> Vectors:
    """Checked vectors from V2 tensors ``numeric`` [n, numeric], in which a missing value is NaN or
    null, and ``categorical`` BYTES [n, categorical].

    Raises:
        RequestError: 422 names the tensor, or the row and the input.
    """
    wanted = {NUMERIC: len(inputs.numeric), CATEGORICAL: len(inputs.categorical)}
    wanted = {name: count for name, count in wanted.items() if count}
    if set(tensors) != set(wanted):
        raise RequestError(
            422, "inputs", f"a vector is {' and '.join(wanted)}; got {', '.join(sorted(tensors))}"
        )
    for name, count in wanted.items():
        if tensors[name].columns != count:
            raise RequestError(
                422, name, f"its shape must be [n, {count}]; the order is that of the metadata"
            )
    numeric = tensors[NUMERIC].numbers()
    check_finite(numeric, inputs)
    if not inputs.categorical:
        return Vectors(numeric=numeric, texts=[])
    words = tensors[CATEGORICAL].values()
    if not _are_texts([words], len(words)):
        for row, name in ((i, n) for i in range(len(numeric)) for n in inputs.categorical):
            _text(f"{CATEGORICAL}[{row}].{name}", words.pop(0))
    count = len(inputs.categorical)
    return Vectors(numeric=numeric, texts=[words[i::count] for i in range(count)])


def check_finite(numeric: Array, inputs: Inputs) -> None:
    """Refuse vectors float64 [n, numeric] that hold an infinity.

    Raises:
        RequestError: 422 names the first one.
    """
    infinite = np.isinf(numeric)
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        name = inputs.numeric[column]
        raise RequestError(422, f"{NUMERIC}[{row}].{name}", "must be finite, or NaN where missing")


def _numbers(rows: list[Any], width: int) -> Array | None:
    """float64 [n, width] of rows of JSON numbers and nulls, the quick way: ``struct`` takes
    numbers only, where numpy would read a text as one. None where a value is infinite.

    Raises:
        TypeError, struct.error: a row is none, or holds another thing than numbers and nulls.
    """
    form = _form(width)
    try:
        packed = b"".join([form.pack(*row) for row in rows])
    except struct.error:
        filled = [[_NAN if value is None else value for value in row] for row in rows]
        packed = b"".join([form.pack(*row) for row in filled])
    numeric: Array = np.frombuffer(packed, np.float64).reshape(len(rows), width)
    return None if np.isinf(numeric).any() else numeric


@cache
def _form(width: int) -> struct.Struct:
    return struct.Struct(f"={width}d")


def _are_texts(rows: list[list[Any]], count: int) -> bool:
    """Whether each row holds ``count`` strings, none of them too long."""
    words = [word for row in rows for word in row]
    if not words:
        return not count
    return (
        set(map(len, rows)) == {count}
        and set(map(type, words)) == {str}
        and max(map(len, words)) <= MAX_STRING
    )


def _checked(position: int, instance: Any, inputs: Inputs) -> tuple[list[float], list[str]]:
    where = f"instances[{position}]"
    if not isinstance(instance, dict):
        raise RequestError(422, where, "an instance is an object")
    names = (NUMERIC, CATEGORICAL) if inputs.categorical else (NUMERIC,)
    for name in instance:
        if name not in names:
            raise RequestError(
                422, f"{where}.{name}", f"unknown field; a vector has {' and '.join(names)}"
            )
    numbers = _list(instance, where, NUMERIC, inputs.numeric)
    words = _list(instance, where, CATEGORICAL, inputs.categorical) if inputs.categorical else []
    return (
        [_number(f"{where}.{n}", v) for n, v in zip(inputs.numeric, numbers, strict=True)],
        [_text(f"{where}.{n}", v) for n, v in zip(inputs.categorical, words, strict=True)],
    )


def _list(instance: dict[str, Any], where: str, name: str, inputs: Sequence[str]) -> list[Any]:
    values = instance.get(name)
    if not isinstance(values, list) or len(values) != len(inputs):
        got = f"{len(values)} values" if isinstance(values, list) else "no list"
        raise RequestError(
            422, f"{where}.{name}", f"must be a list of {len(inputs)} values, not {got}; their "
            "order is that of the model's metadata",
        )  # fmt: skip
    return values


def _number(where: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(422, where, "must be a number, or null where it is missing")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not np.isfinite(number):
        raise RequestError(422, where, "must be a finite number")
    return number


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(422, where, "must be a string")
    if len(value) > MAX_STRING:
        raise RequestError(422, where, f"at most {MAX_STRING} characters")
    return value
