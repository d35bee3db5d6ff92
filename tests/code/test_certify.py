"""Certifying, killed at many moments."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from certificate_helpers import pem_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from judging_helpers import fresh_home, judged, judged_only, state_of
from killing import killed_at
from toy import TOY, toy_registered

from feature_repo.errors import CertificateError, LedgerError
from feature_repo.home import Home
from serving import certificate, dsse, ledger, revocations
from serving.artifact import CERTIFICATE
from tasks.certify import VALID_FOR, certify, sign
from tasks.housekeeping import needed_digests
from tasks.ledger import append, own_trust


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
        trust, now = own_trust(home), datetime.now(timezone.utc)
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


def test_a_deleted_list_of_revocations_comes_back_from_the_ledger(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        run = judged(home)
        issued, trust = run.certified.certificate, own_trust(home)
        path = home.root / "trust" / "revocations.json"
        assert revocations.revoked(home, trust) == ()
        empty = path.read_bytes()
        append(home, "revocation", "s", {"certificate": issued, "reason": "test"})
        for harm in (path.unlink, lambda: path.write_bytes(empty)):
            harm()
            with pytest.raises(CertificateError, match=f"not certified.*{issued} is revoked"):
                judged(home)
            assert [revocation.id for revocation in revocations.revoked(home, trust)] == [issued]


def test_an_expired_certificate_that_is_revoked_is_not_renewed(tmp_path: Path) -> None:
    """A rerun of the pipeline must not make a believed model of a revoked one."""
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        directory = Path(judged(home).certified.model_dir)
    facts, now = dict(certificate.read(directory).predicate), datetime.now(timezone.utc)
    old = certificate.issue(
        dsse.signing_key(home), directory, facts, VALID_FOR, now - timedelta(days=91), renew=True
    )
    told = {"certificate": old.id, "reason": "labels were wrong", "revoked": True}
    append(home, "revocation", old.subject, told, recurring=True)
    with pytest.raises(CertificateError, match=f"{old.id} is revoked"):
        sign(home, TOY, directory, facts, now)
    append(home, "revocation", old.subject, told | {"revoked": False}, recurring=True)
    revocations.lift(home, dsse.signing_key(home), old.id)
    assert sign(home, TOY, directory, facts, now).certificate != old.id


def test_a_ledger_that_is_gone_stops_the_next_certificate(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        judged(home)
        shutil.rmtree(home.root / "ledger")
        with pytest.raises(LedgerError, match="line 1 was removed"):
            judged(home, slope=0.7)
    assert len(list(home.root.glob("models/toy/*/certificate.json"))) == 1


def test_a_new_key_signs_a_new_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trusted old key keeps the ledger readable, and the step says what it did."""
    home, trusted = fresh_home(tmp_path / "home"), tmp_path / "trusted"
    trusted.mkdir()
    for name in ("first", "second"):
        private = Ed25519PrivateKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(pem_of(private))
        (trusted / f"{name}.pem").write_bytes(dsse.public_pem(private.public_key()))
    monkeypatch.setenv("AIRWORTHY_TRUSTED_KEYS", str(trusted))
    with toy_registered():
        monkeypatch.setenv("AIRWORTHY_SIGNING_KEY", str(tmp_path / "first.pem"))
        old = judged(home).certified
        monkeypatch.setenv("AIRWORTHY_SIGNING_KEY", str(tmp_path / "second.pem"))
        new = judged(home).certified
    assert new.certificate != old.certificate
    assert not new.already
    assert new.version == old.version
    (trusted / "second.pem").unlink()
    with pytest.raises(LedgerError, match="signing key was replaced"):
        ledger.verify(home, dsse.trust(home))


def test_the_lineage_names_weights_and_card(tmp_path: Path) -> None:
    """So that a clean-up keeps them."""
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        run = judged(home)
    lineage = json.loads((Path(run.certified.model_dir) / "lineage.json").read_text())
    assert (lineage["trained"], lineage["card"]) == (run.trained.digest, run.card.digest)
    kept = needed_digests(home)
    assert {run.trained.digest, run.card.digest} <= kept


def altered(directory: Path, **facts: Any) -> bytes:
    """Change facts of the certificate there, but not its signature; returns what it was."""
    path = directory / CERTIFICATE
    before = path.read_bytes()
    envelope = json.loads(before)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"] |= facts
    envelope["payload"] = base64.b64encode(json.dumps(statement, sort_keys=True).encode()).decode()
    path.write_bytes(dsse.encode(envelope))
    return before


def test_an_altered_certificate_is_not_signed_onwards(tmp_path: Path) -> None:
    """A version that nobody gave must not get the genuine key's signature, nor lead to another;
    a certificate made anew has the version that the ledger tells."""
    home = fresh_home(tmp_path / "home")
    with toy_registered():
        directory = Path(judged(home).certified.model_dir)
        path, facts = directory / CERTIFICATE, dict(certificate.read(directory).predicate)
        before = altered(directory, version="9.9.9")
        with pytest.raises(CertificateError, match=r"changed after signing.*delete the file"):
            sign(home, TOY, directory, facts, datetime.now(timezone.utc))
        path.write_bytes(b"{")
        with pytest.raises(CertificateError, match="delete the file and run again"):
            sign(home, TOY, directory, facts, datetime.now(timezone.utc))
        path.unlink()
        assert sign(home, TOY, directory, facts, datetime.now(timezone.utc)).version == "1.0.0"
        altered(directory, version="9.9.9")
        assert judged(home, slope=0.7).certified.version == "1.0.1"
        path.write_bytes(before)
        told = {"certificate": certificate.read(directory).id, "reason": "test", "revoked": True}
        append(home, "revocation", directory.name, told, recurring=True)
        path.unlink()
        with pytest.raises(CertificateError, match="is revoked"):
            sign(home, TOY, directory, facts, datetime.now(timezone.utc))
