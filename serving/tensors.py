"""Tensors of the V2 protocol (Open Inference Protocol), JSON and binary, in and out.

Binary data follow the protocol's binary tensor extension: little endian, row by row; a BYTES
element is its length in four bytes, then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import RequestError
from serving.instances import kind_of

if TYPE_CHECKING:
    from feature_repo.inputs import Array

_LENGTH = struct.Struct("<I")
NUMBERS = {
    "FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "INT16": "<i2",
    "INT8": "<i1", "UINT64": "<u8", "UINT32": "<u4", "UINT16": "<u2", "UINT8": "<u1",
}  # fmt: skip


_DATATYPES = ["BYTES", "BOOL", *NUMBERS]
# What JSON gives by datatype; null is a missing number, or a key that is not known.
_HELD: dict[str, tuple[str, frozenset[type]]] = {
    "BYTES": ("strings", frozenset({str, type(None)})),
    "BOOL": ("booleans", frozenset({bool, type(None)})),
    **dict.fromkeys(NUMBERS, ("numbers", frozenset({int, float, type(None)}))),
}
_CONTENTS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One input: ``data`` holds ``rows * columns`` values, row by row: numbers as an array (or as
    a list, where JSON gave them and they may be null), BYTES as strings."""

    name: str
    datatype: str
    rows: int
    columns: int
    data: Array | Sequence[Any]

    def numbers(self) -> Array:
        """float64 [rows, columns]; null is NaN.

        Raises:
            RequestError: 422 the datatype is none of numbers, or a number is too large.
        """
        # numpy would take a boolean for a number, and a text such as "1.5" too
        if self.datatype not in NUMBERS:
            raise RequestError(
                422, self.name, f"holds numbers: send a datatype such as FP64, not {self.datatype}"
            )
        data = self.data
        if not isinstance(data, np.ndarray):
            try:
                data = np.array(data, dtype=np.float64)
            except OverflowError as exc:
                raise RequestError(422, self.name, f"holds too large a number ({exc})") from exc
        return data.reshape(self.rows, self.columns).astype(np.float64)

    def values(self) -> list[Any]:
        """One JSON value a row, of a tensor with one column."""
        return self.data.tolist() if isinstance(self.data, np.ndarray) else list(self.data)


def read_tensors(inputs: Any, binary: memoryview | None) -> list[Tensor]:
    """Tensors of a request's ``inputs``; ``binary`` is what follows its JSON header, if anything.

    Raises:
        RequestError: 400 there are none, 422 names the tensor that is wrong.
    """
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(
            400, "inputs", 'send {"inputs": [{"name", "shape", "datatype", "data"}]}'
        )
    tensors: dict[str, Tensor] = {}
    start = 0
    for position, given in enumerate(inputs):
        tensor, start = _tensor(f"inputs[{position}]", given, binary, start)
        if tensor.name in tensors:
            raise RequestError(422, tensor.name, "this tensor is given twice")
        tensors[tensor.name] = tensor
    if binary is not None and start != len(binary):
        raise RequestError(
            400, "inputs", f"{len(binary) - start} bytes follow the last tensor's binary data"
        )
    rows = {tensor.rows for tensor in tensors.values()}
    if len(rows) != 1 or 0 in rows:
        raise RequestError(422, "inputs", "all tensors need one batch size n >= 1")
    return list(tensors.values())


def _tensor(where: str, given: Any, binary: memoryview | None, start: int) -> tuple[Tensor, int]:
    """A tensor, and where the next one's binary data begin."""
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise RequestError(422, where, "a tensor is an object with a name, a shape and data")
    name, datatype = given["name"], given.get("datatype")
    if datatype not in _DATATYPES:
        raise RequestError(422, name, f"datatype {datatype!r} is none of {', '.join(_DATATYPES)}")
    rows, columns = _shape(name, given.get("shape"))
    parameters = given.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    data: Any
    if size is None:
        data = _flat(name, given.get("data"), columns)
        if not _HELD[datatype][1].issuperset(map(type, data)):
            raise _of_another_type(name, datatype, data)
    else:
        data = _binary(name, datatype, rows * columns, size, binary, start)
        start += size
    if len(data) != rows * columns:
        raise RequestError(422, name, f"shape {given['shape']!r} does not fit {len(data)} values")
    return Tensor(name=name, datatype=datatype, rows=rows, columns=columns, data=data), start


def _shape(name: str, shape: Any) -> tuple[int, int]:
    if not isinstance(shape, list) or len(shape) not in (1, 2):
        raise RequestError(422, name, f"shape {shape!r} is neither [n] nor [n, columns]")
    if any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise RequestError(422, name, f"shape {shape!r} holds what is no size")
    return shape[0], shape[1] if len(shape) == 2 else 1


def _flat(name: str, data: Any, columns: int) -> list[Any]:
    if not isinstance(data, list):
        raise RequestError(
            422, name, "the tensor needs its data as a JSON list, or binary_data_size and binary "
            "data behind the JSON",
        )  # fmt: skip
    if data and isinstance(data[0], list):
        if any(not isinstance(row, list) for row in data):
            raise RequestError(422, name, "the data are lists and values mixed")
        if set(map(len, data)) != {columns}:
            raise RequestError(422, name, f"a row of the data has not {columns} values")
        return list(chain.from_iterable(data))
    return data


def _of_another_type(name: str, datatype: str, data: list[Any]) -> RequestError:
    """Names the first value that is none of the datatype's."""
    held, types = _HELD[datatype]
    place = next(i for i, value in enumerate(data) if type(value) not in types)
    return RequestError(
        422, f"{name}.data[{place}]",
        f"is {kind_of(data[place])}, but {datatype} holds {held}; mend the value or the datatype",
    )  # fmt: skip


def _binary(
    name: str, datatype: str, count: int, size: Any, binary: memoryview | None, start: int
) -> Array | list[str]:
    if binary is None:
        raise RequestError(
            422, name, "binary_data_size needs the header Inference-Header-Content-Length, which "
            "says where the JSON ends",
        )  # fmt: skip
    if type(size) is not int or size < 0 or start + size > len(binary):
        raise RequestError(422, name, f"binary_data_size {size!r} is not within the body")
    part = binary[start : start + size]
    if datatype == "BYTES":
        return list(_texts(name, part))
    dtype = np.dtype(NUMBERS.get(datatype, "?"))
    if size != count * dtype.itemsize:
        raise RequestError(
            422,
            name,
            f"{count} values of {datatype} are {count * dtype.itemsize} bytes, not {size}",
        )
    return np.frombuffer(part, dtype)


def _texts(name: str, part: memoryview) -> Iterator[str]:
    place = 0
    while place < len(part):
        if place + 4 > len(part):
            raise RequestError(422, name, "the binary data end within a length")
        (length,) = _LENGTH.unpack_from(part, place)
        place += 4
        if place + length > len(part):
            raise RequestError(422, name, "the binary data end within a value")
        try:
            yield str(part[place : place + length], "utf-8")
        except UnicodeDecodeError as exc:
            raise RequestError(422, name, f"a value is no UTF-8 ({exc.reason})") from exc
        place += length


def read_grpc(inputs: Sequence[Any], raw: Sequence[bytes]) -> list[Tensor]:
    """Tensors of a gRPC request: its ``inputs`` and ``raw_input_contents``.

    Raises:
        RequestError: 400 there are none, 422 names the tensor that is wrong.
    """
    if raw and len(raw) != len(inputs):
        raise RequestError(
            422, "raw_input_contents", f"{len(raw)} raw contents for {len(inputs)} inputs"
        )
    given = []
    for position, tensor in enumerate(inputs):
        told = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}
        if not raw:
            held = getattr(tensor.contents, _CONTENTS.get(tensor.datatype, "bytes_contents"))
            told["data"] = _decoded(tensor.name, held)
        elif tensor.HasField("contents"):
            raise RequestError(422, tensor.name, "has contents and raw contents; send one of them")
        else:
            told["parameters"] = {"binary_data_size": len(raw[position])}
        given.append(told)
    return read_tensors(given, memoryview(b"".join(raw)))


def _decoded(name: str, data: Sequence[Any]) -> list[Any]:
    try:
        return [str(v, "utf-8") if isinstance(v, bytes) else v for v in data]
    except UnicodeDecodeError as exc:
        raise RequestError(422, name, f"a value is no UTF-8 ({exc.reason})") from exc


def pack(datatype: str, data: Sequence[Any]) -> bytes:
    """Binary data of an output [n]."""
    if datatype == "BYTES":
        parts = [value.encode() for value in data]
        return b"".join([_LENGTH.pack(len(part)) + part for part in parts])
    return np.array(data, dtype=NUMBERS.get(datatype, "?")).tobytes()


def wants_binary(document: Mapping[str, Any]) -> set[str] | bool:
    """Which outputs a request wants as binary data: all, none, or those named. ``outputs`` is a
    list of objects with a name afterwards, if it is there at all.

    Raises:
        RequestError: 422 ``parameters`` or ``outputs`` are of another type.
    """
    everything = _parameters(document, "parameters").get("binary_data_output") is True
    outputs = document.get("outputs")
    if outputs is None:
        return everything
    if not isinstance(outputs, list):
        raise RequestError(422, "outputs", 'send a list of {"name": …}')
    wanted = set()
    for position, output in enumerate(outputs):
        where = f"outputs[{position}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise RequestError(422, where, 'an output is {"name": …}')
        if _parameters(output, f"{where}.parameters").get("binary_data") is True:
            wanted.add(output["name"])
    return everything or wanted or False


def _parameters(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(422, where, "must be an object")
    return found
