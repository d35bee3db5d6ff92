"""Declarations as texts, which are equal exactly when they declare the same.

Pipeline and server may run different Pythons, so nothing here depends on Python's version: a
function is its code, not a dump of its syntax tree or what the compiler made of it.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any


def canonical(value: Any) -> str:
    """The text of a declared value: a data class, a tuple, a function or a constant."""
    if is_dataclass(value) and not isinstance(value, type):
        told = (f for f in fields(value) if f.compare)
        parts = (f"{f.name}={canonical(getattr(value, f.name))}" for f in told)
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, tuple):
        return f"[{','.join(map(canonical, value))}]"
    function = inspect.unwrap(value) if callable(value) else value
    if not inspect.isfunction(function):
        return repr(value)
    if function.__module__.partition(".")[0] in sys.stdlib_module_names:
        return f"{function.__module__}.{function.__qualname__}"
    return _function(function)


def _function(function: Callable[..., Any]) -> str:
    """Its code without comments, docstring and layout, then the functions that it calls and the
    constants that it reads: they are part of what it does."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (defined,) = tree.body
    read: list[ast.AST] = [defined]  # a lambda
    if isinstance(defined, ast.FunctionDef):
        if ast.get_docstring(defined) is not None:
            defined.body = defined.body[1:] or [ast.Pass()]
        defaults = (*defined.args.defaults, *defined.args.kw_defaults)
        read = [*defined.body, *(default for default in defaults if default)]
    names = {
        node.id
        for part in read
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and node.id != function.__name__
    }
    known = function.__globals__
    used = {name: known[name] for name in sorted(names) if name in known}
    reads = (f"{n}={canonical(v)}" for n, v in used.items() if not inspect.ismodule(v))
    return f"{ast.unparse(tree)}({','.join(reads)})"
