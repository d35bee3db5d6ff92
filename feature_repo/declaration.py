"""Declarations as texts, which are equal exactly when they declare the same.

Pipeline and server may run different Pythons, so nothing here depends on Python's version or on
the process: a function is its code, not a dump of its syntax tree or what the compiler made of it,
and a value that has no such text is refused.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import _lru_cache_wrapper
from types import FunctionType
from typing import Any
from zoneinfo import ZoneInfo

from feature_repo.errors import DeclarationError

_CONSTANTS = (
    str, bytes, bool, int, float, type(None), date, datetime, time, timedelta, timezone, ZoneInfo,
)  # fmt: skip
_NAMED = {*sys.stdlib_module_names, "numpy"}  # their functions do what their names say


def canonical(value: Any) -> str:
    """The text of a declared value: a data class, a tuple, list or mapping, a function or a
    constant.

    Raises:
        DeclarationError: a part of it has no text that is the same in every process.
    """
    return _text(value, type(value).__name__, ())


def _text(value: Any, name: str, way: tuple[FunctionType, ...]) -> str:
    """``name`` says where the value was found, ``way`` the functions that led to it."""
    if type(value) in _CONSTANTS:
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        told = [f.name for f in fields(value) if f.compare]
        parts = [f"{n}={_text(getattr(value, n), f'{name}.{n}', way)}" for n in told]
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, tuple | list):
        items = [_text(item, f"{name}[{i}]", way) for i, item in enumerate(value)]
        return f"{type(value).__name__}[{','.join(items)}]"
    if isinstance(value, Mapping):
        keys = {key: _text(key, f"a key of {name}", way) for key in value}
        items = [f"{keys[k]}:{_text(v, f'{name}[{keys[k]}]', way)}" for k, v in value.items()]
        return f"{{{','.join(items)}}}"
    return _callable(value, name, way)


def _callable(value: Any, name: str, way: tuple[FunctionType, ...]) -> str:
    """A class and a function of the standard library or numpy by name, another by its code."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    function = value.__wrapped__ if isinstance(value, _lru_cache_wrapper) else value
    module, known = getattr(function, "__module__", None) or "", getattr(function, "__name__", "")
    if module.partition(".")[0] in _NAMED:
        if getattr(sys.modules.get(module), known, None) is function:
            return f"{module}.{known}"
    elif isinstance(function, FunctionType):
        if function in way:  # it calls itself, or they call one another
            return f"recursion {way.index(function)}"
        return _function(function, name, (*way, function))
    raise DeclarationError(
        f"{name} is {value!r}, a {type(value).__name__}, which has no text that is the same in "
        "every process, so models could not tell whether they read it: declare a constant, a "
        "tuple, list or dict of such, a data class or a plain function (def) instead"
    )


def _function(function: FunctionType, name: str, way: tuple[FunctionType, ...]) -> str:
    """Its code without comments, annotations, docstring and layout, then its defaults and the
    functions and constants that it reads, in its module or around it: they are part of what it
    does."""
    defined = _Plain().visit(_definition(function, name))
    body = defined.body if isinstance(defined.body, list) else [defined.body]
    names = {n.id for part in body for n in ast.walk(part) if isinstance(n, ast.Name)}
    known = {n: v for n, v in function.__globals__.items() if n in names}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    known |= {n: cell.cell_contents for n, cell in cells}
    known["defaults"] = (function.__defaults__, function.__kwdefaults__)
    modules = {n: v.__name__ for n, v in known.items() if inspect.ismodule(v)}
    _refuse_modules(function, name, {*modules.values(), *_imported(defined)})
    reads = (
        f"{n}={_text(known[n], f'{n!r} of {function.__qualname__}', way)}"
        for n in sorted(known.keys() - modules.keys())
    )
    return f"{ast.unparse(defined)}({','.join(reads)})"


def _imported(defined: ast.AST) -> Iterator[str]:
    """Modules that a function's code imports when it runs."""
    for node in ast.walk(defined):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _refuse_modules(function: FunctionType, name: str, modules: set[str]) -> None:
    """Functions that are reached through a module are not seen, so their code would not count."""
    for module in sorted(modules):
        if module.partition(".")[0] not in _NAMED:
            raise DeclarationError(
                f"{name}: {function.__qualname__} reads the module {module!r}, of which models "
                f"could not tell what it does; import what it needs beside the function, 'from "
                f"{module} import ...'"
            )


def _definition(function: FunctionType, name: str) -> ast.FunctionDef | ast.Lambda:
    """The one definition in the lines where a function begins."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
    except (OSError, SyntaxError) as exc:
        raise DeclarationError(
            f"{name}: the code of {function.__qualname__} cannot be read ({exc}); write it as a "
            "plain function (def) in a module"
        ) from exc
    if isinstance(tree.body[0], ast.FunctionDef) and function.__name__ != "<lambda>":
        return tree.body[0]
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    if len(found) != 1:
        raise DeclarationError(
            f"{name}: {function.__qualname__} is one of {len(found)} lambdas in its lines; write "
            "it as a plain function (def)"
        )
    return found[0]


class _Plain(ast.NodeTransformer):
    """Drops what does nothing: annotations and docstrings."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        plain = ast.Assign([node.target], node.value) if node.value else ast.Pass()
        return ast.copy_location(plain, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node
