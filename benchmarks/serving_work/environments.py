"""Each peer in an environment of its own, made once and kept under ``$XDG_CACHE_HOME``.

``serving_peers/NAME.txt`` is what ``uv pip compile`` makes of the peer, onnxruntime, numpy and
orjson; KServe's and FastAPI's within ``requirements.lock``, so that only the server differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parents[1] / "serving_peers"


def python_of(name: str, peers: Path = PEERS) -> Path:
    """Interpreter of the environment of a peer whose pins are in the folder ``peers``.

    Raises:
        RuntimeError: it cannot be made, with what uv said.
    """
    pins = peers / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "airworthy" / "bench-envs" / f"{name}-{digest}"
    python, made = folder / "bin" / "python", folder / ".made"
    if made.exists():
        return python
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv is not here: install it (pip install uv)")
    _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    links = os.environ.get("PIP_FIND_LINKS")
    _run(*install, *(["--find-links", links] if links else []), "-r", str(pins))
    made.touch()
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-600:]}")


if __name__ == "__main__":
    for pins in sorted(PEERS.glob("*.txt")):
        try:
            python_of(pins.stem)
        except RuntimeError as exc:
            print(f"{pins.stem}: {exc}", file=sys.stderr)
