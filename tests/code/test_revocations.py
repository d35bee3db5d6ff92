"""Revocation and its lifting: what a server believes, whatever somebody puts back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from certificate_helpers import Made, other_key, refusal
from killing import killed_at
from serving_helpers import NOW

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from serving import ledger, revocations
from tasks.trust import reinstate_certificate, revoke_certificate


@pytest.fixture
def own(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A certified model in the home that the tasks open."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(made.home.root))
    return made


def list_of(made: Made) -> Path:
    return made.home.root / "trust" / "revocations.json"


def listed(made: Made) -> frozenset[str]:
    return revocations.listed(made.home, made.key)


def revoke(made: Made, reason: str = "labels were wrong") -> None:
    revoke_certificate(certificate_id=made.certificate.id, reason=reason)


def reinstate(made: Made, reason: str = "they were right") -> None:
    reinstate_certificate(certificate_id=made.certificate.id, reason=reason)


def test_a_revoked_certificate_is_refused_and_the_way_back_is_named(own: Made) -> None:
    revocations.revoke(own.home, own.key, "cert-0000000000000000", "a test of the list", NOW)
    own.clear()
    revoke(own)
    revoke(own)
    message = refusal(own)
    assert f"{own.certificate.id} is revoked" in message
    assert f"registry.py reinstate --certificate_id {own.certificate.id}" in message
    assert [e["kind"] for e in ledger.entries(own.home)] == ["certificate", "revocation"]


def test_an_older_list_that_is_put_back_is_noticed(own: Made) -> None:
    older = list_of(own).read_bytes()
    revoke(own)
    list_of(own).write_bytes(older)
    message = refusal(own)
    assert f"lacks the revocation of {own.certificate.id}, which the ledger tells" in message
    assert "run the pipeline" in message
    told = ledger.revocations(ledger.entries(own.home))
    revocations.complete(own.home, own.key, told, NOW)  # as each run of the pipeline does
    assert f"{own.certificate.id} is revoked" in refusal(own)


@pytest.mark.parametrize("left", ["no ledger", "a line less", "another line"])
def test_an_older_list_beside_a_changed_ledger_is_noticed(own: Made, left: str) -> None:
    older = list_of(own).read_bytes()
    revoke(own)
    list_of(own).write_bytes(older)
    path = own.home.root / "ledger" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    if left == "no ledger":
        shutil.rmtree(path.parent)
    elif left == "a line less":
        path.write_bytes(b"".join(lines[:-1]))
    else:
        path.write_bytes(lines[0] + lines[1].replace(b"true", b"false"))
    message = refusal(own)
    assert "which certificates are revoked is not known" in message
    assert "ledger line" in message


def test_a_server_with_a_list_and_no_models_heeds_it(own: Made, tmp_path: Path) -> None:
    """A pod: the model directory came from elsewhere, the list is mounted, a ledger is not."""
    revoke(own)
    pod, folder = tmp_path / "pod", tmp_path / "mounted"
    shutil.copytree(own.folder, folder)
    shutil.copytree(own.home.root / "trust", pod / "trust")
    made = replace(own, home=Home(root=pod), folder=folder)
    assert "is revoked" in refusal(made)
    (pod / "trust" / "revocations.json").unlink()
    made.clear()


def test_a_reinstated_certificate_is_believed_again_and_may_be_revoked_again(own: Made) -> None:
    revoke(own)
    revoked = list_of(own).read_bytes()
    reinstate(own)
    own.clear()
    free = list_of(own).read_bytes()
    list_of(own).write_bytes(revoked)
    assert "is revoked" in refusal(own), "an older list can only refuse more"
    reinstate(own)
    own.clear()
    revoke(own)
    assert "is revoked" in refusal(own)
    list_of(own).write_bytes(free)
    assert "lacks the revocation" in refusal(own)
    told = [e["facts"] for e in ledger.entries(own.home) if e["kind"] == "revocation"]
    assert [(t["revoked"], t["reason"]) for t in told] == [
        (True, "labels were wrong"), (False, "they were right"), (True, "labels were wrong"),
    ]  # fmt: skip


def test_only_a_revoked_certificate_is_reinstated_and_only_for_a_reason(own: Made) -> None:
    with pytest.raises(CertificateError, match=r"not reinstated.*there is none"):
        reinstate(own)
    revoke(own)
    with pytest.raises(CertificateError, match=own.certificate.id):
        reinstate(own, " ")
    with pytest.raises(CertificateError, match=own.certificate.id):
        reinstate_certificate(certificate_id="cert-0", reason="why not")
    assert "is revoked" in refusal(own)


def test_killed_at_any_line_a_reinstatement_is_simply_repeated(own: Made) -> None:
    """It counts as revoked until all of it is done; nothing looks like tampering."""
    revoke(own)
    shutil.copytree(own.home.root, own.home.root.with_name("before"))
    line, died = 0, True
    while died:
        line += 1
        shutil.rmtree(own.home.root)
        shutil.copytree(own.home.root.with_name("before"), own.home.root)
        died = killed_at(line, "tasks.trust", lambda: reinstate(own))
        if own.certificate.id in listed(own):  # not all of it was done
            assert "is revoked" in refusal(own), line
            reinstate(own)
        own.clear()
    assert line > 8  # it was killed at that many different moments


def test_an_unsigned_or_altered_list_refuses_everything(made: Made) -> None:
    list_of(made).write_text('{"revoked": []}')
    assert "revocations.json" in refusal(made)
    list_of(made).unlink()
    revocations.revoke(made.home, other_key(), "cert-1", "by a stranger", NOW)
    assert "revocations.json" in refusal(made)
    with pytest.raises(CertificateError, match=r"revocations\.json"):
        revocations.revoke(made.home, made.key, "cert-2", "on top of a stranger's list", NOW)


def test_a_deleted_list_refuses_everything(own: Made) -> None:
    revoke(own)
    list_of(own).unlink()
    assert "revocations.json is missing" in refusal(own)


def test_entries_from_before_reinstatements_still_revoke() -> None:
    entry = {"kind": "revocation", "facts": {"certificate": "cert-1", "reason": "old"}}
    assert ledger.revocations([entry]) == {"cert-1": "old"}
