"""Who may import whom: the declared contracts, and what a server process really loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "feast", "flytekit", "mlflow", "pandera", "serving.network")


def test_import_contracts_hold() -> None:
    """The one-way imports that pyproject.toml declares."""
    linter = str(Path(sys.executable).parent / "lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


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
