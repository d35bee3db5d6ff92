"""Certifying, killed at many moments."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from judging_helpers import fresh_home, judged_only, state_of, toy_registered
from killing import killed_at

from feature_repo.home import Home
from serving import certificate
from tasks import ledger
from tasks.certify import certify


def test_killed_at_many_moments_certifying_heals(tmp_path: Path) -> None:
    """Whenever it was killed: one directory, one certificate, one ledger entry."""
    ready = fresh_home(tmp_path / "ready")
    with toy_registered():
        inputs, _ = judged_only(ready)
        _kill_and_heal(ready, inputs, tmp_path)


def _kill_and_heal(ready: Home, inputs: dict[str, Any], tmp_path: Path) -> None:
    line, died = 1, True
    while died:
        home = Home(root=tmp_path / f"killed-{line}")
        shutil.copytree(ready.root, home.root)

        def action(home: Home = home) -> object:
            return certify(state=state_of(home), **inputs)

        died = killed_at(line, "tasks.certify", action)
        action()
        (directory,) = (home.root / "models" / "toy").glob("[!.]*")
        trust, now = ledger.own_trust(home), datetime.now(timezone.utc)
        issued = certificate.verify(directory, trust, revoked=(), released=False, now=now)
        assert issued.predicate["version"] == "1.0.0"
        assert [e["kind"] for e in ledger.entries(home)] == ["certificate"], line
        line += 10
    assert line > 60  # the lines of one undisturbed run: it was killed at every tenth
