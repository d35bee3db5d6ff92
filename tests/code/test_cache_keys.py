"""Cache keys name the code that a task runs: what they leave out is served from a stale cache."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("feature_repo", "serving", "tasks")
# What a module of these decides is in a key by another way, or decides nothing that is kept.
FREE = {
    "the declaration's digest, an input of each task, holds what it says": (
        "feature_repo.contract",
        "feature_repo.model",
        "feature_repo.registry",
    ),
    "words, places, names of files, how a task is run": (
        "feature_repo.errors",
        "feature_repo.home",
        "feature_repo.wording",
        "serving.artifact",
        "tasks.cache",
        "tasks.folders",
        "tasks.resources",
        "tasks.steps",
    ),
    "types of inputs, whose values are in the key": ("tasks.types",),
    "whose signature counts, not what was computed": (
        "serving.certificate",
        "tasks.ledger",
    ),
}
# A task's file, and where its work begins; of a training that is what decides the weights.
WORK = {
    "tasks.train": ("tasks.fit", "tasks.fallback"),
    "tasks.export": ("tasks.export",),
    "tasks.evaluate": ("tasks.evaluate",),
    "tasks.model_card": ("tasks.model_card",),
    "tasks.flights": ("tasks.flights",),
    "tasks.weather": ("tasks.weather",),
}


def source(module: str) -> Path | None:
    """Where a module or package is, from the repository's root."""
    path = Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def imports(node: ast.AST) -> Iterator[str]:
    """Our modules that run when this code does: also within functions, not for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        if isinstance(child, ast.ImportFrom) and child.module:
            within = [f"{child.module}.{name.name}" for name in child.names]
            yield from (name if source(name) else child.module for name in within)
        yield from imports(child)


def used(begin: tuple[str, ...]) -> set[str]:
    """Our modules that are reached from some, less those that are free."""
    free = {module for several in FREE.values() for module in several}
    found: set[str] = set()
    left = list(begin)
    while left:
        module = left.pop()
        path = source(module) if module.split(".")[0] in PACKAGES else None
        if path is not None and module not in found | free:
            found.add(module)
            left += imports(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize(("task", "begin"), WORK.items())
def test_a_cache_key_names_every_module_that_the_task_s_work_runs(
    task: str, begin: tuple[str, ...]
) -> None:
    """A package counts with all its modules."""
    named = importlib.import_module(task).CODE
    reached = used(begin)
    assert len(reached) > 4
    missing = {m for m in reached if not any(m == n or m.startswith(f"{n}.") for n in named)}
    assert not missing, f"{task}.CODE lacks {sorted(missing)}: name them there, or why not in FREE"


def test_free_modules_are_there() -> None:
    """A name that nothing has would free nothing."""
    assert all(source(module) for several in FREE.values() for module in several)
