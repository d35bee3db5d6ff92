"""Who may import whom: the declared contracts, and what a server process really loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("feature_repo", "serving", "tasks", "workflows")
NETWORKS = ("serving.network", "serving.tabm_network")
HEAVY = ("torch", "feast", "flytekit", "mlflow", "pandera", *NETWORKS)


def test_import_contracts_hold() -> None:
    """The one-way imports that pyproject.toml declares."""
    linter = str(Path(sys.executable).parent / "lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_use_cases_do_not_know_each_other() -> None:
    """The contract compares features and sources; this, every file of a use case."""
    cases = {path.parent.name for path in (ROOT / "feature_repo").glob("*/__init__.py")}
    assert len(cases) >= 2
    for case in cases:
        own = [ROOT / room / f"{case}.py" for room in ("tasks", "workflows")]
        for path in (*(ROOT / "feature_repo" / case).rglob("*.py"), *own):
            named = re.findall(r"^\s*(?:from|import) feature_repo\.(\w+)\.", path.read_text(), re.M)
            assert set(named) & cases <= {case}, path


def test_server_process_loads_no_training_library() -> None:
    """What the linter reads from the text, seen in a process."""
    program = (
        f"import sys, serving.server\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def imported() -> Iterator[tuple[str, str]]:
    """Each library that our code imports anywhere, and a file that does so."""
    for path in (p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name not in ROOMS:
                    yield name, str(path.relative_to(ROOT))


def plain(name: str) -> str:
    """A distribution's name as the index normalises it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def test_every_library_imported_is_declared_and_locked() -> None:
    """Nothing works only because another library, or the developer's extra, brought it along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for e in extras if e != "dev" for r in extras[e])]
    declared = {plain(requirement) for requirement in wanted}
    brought_by = packages_distributions()
    undeclared = {
        name: file
        for name, file in imported()
        if not declared & {plain(d) for d in brought_by.get(name, [name])}
    }
    assert undeclared == {}
    locked = {plain(line) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    lockable = {plain(r) for e in extras if e != "spark" for r in extras[e]}
    assert lockable | {plain(r) for r in project["dependencies"]} <= locked
