"""Certifying, killed at many moments."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from judging_helpers import TOY, fresh_home, judged, judged_only, state_of, toy_registered
from killing import killed_at

from feature_repo.home import Home
from serving import certificate, dsse
from tasks import ledger
from tasks.certify import VALID_FOR, certify, sign


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


def test_killed_while_it_renews_a_model_keeps_its_version(tmp_path: Path) -> None:
    """The expired certificate is replaced in one step: no moment is without one."""
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        directory = Path(judged(home).certified.model_dir)
    now, key = datetime.now(timezone.utc), dsse.signing_key(home)
    facts = dict(certificate.read(directory).predicate)

    def renew() -> object:
        return sign(home, TOY, directory, facts, now)

    line, died = 1, True
    while died:
        past = now - timedelta(days=91, seconds=line)
        certificate.issue(key, directory, facts, VALID_FOR, past, renew=True)
        died = killed_at(line, "tasks.certify", renew)
        assert certificate.read(directory).predicate["version"] == "1.0.0", line
        renew()
        issued = certificate.read(directory)
        assert issued.predicate["version"] == "1.0.0", line
        assert not issued.expired(now)
        line += 1
    assert line > 15
