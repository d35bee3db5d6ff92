"""Revocation and its lifting: what a server believes, whatever somebody puts back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from certificate_helpers import FLIGHTS, Made, other_key, refusal
from killing import killed_at
from serving_helpers import NOW, predicate

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from serving import ledger, revocations
from serving.certificate import issue
from serving.dsse import SigningKey, public_pem
from serving.ledger import Revocation
from serving.statements import write_statement
from tasks.trust import reinstate_certificate, revoke_certificate


@pytest.fixture
def own(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A certified model in the home that the tasks open."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(made.home.root))
    return made


def list_of(made: Made) -> Path:
    return made.home.root / "trust" / "revocations.json"


def listed(made: Made) -> set[str]:
    return {revocation.id for revocation in revocations.listed(made.home, made.key)}


def put_on_list(made: Made, key: SigningKey, id_: str, content: str = "") -> None:
    revocations.complete(
        made.home, key, [Revocation(id=id_, content=content, reason="a test of the list")], NOW
    )


def revoke(made: Made, reason: str = "labels were wrong") -> None:
    revoke_certificate(certificate_id=made.certificate.id, reason=reason)


def reinstate(made: Made, reason: str = "they were right") -> None:
    reinstate_certificate(certificate_id=made.certificate.id, reason=reason)


def test_a_revoked_certificate_is_refused_and_the_way_back_is_named(own: Made) -> None:
    put_on_list(own, own.key, "cert-0000000000000000")
    own.clear()
    revoke(own)
    revoke(own)
    message = refusal(own)
    assert f"{own.certificate.id} is revoked (labels were wrong)" in message
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
    revocations.complete(own.home, own.key, told.values(), NOW)  # as each run of the pipeline does
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
    put_on_list(made, other_key(), "cert-1")
    assert "revocations.json" in refusal(made)
    with pytest.raises(CertificateError, match=r"revocations\.json"):
        put_on_list(made, made.key, "cert-2")


def test_a_deleted_list_refuses_everything(own: Made) -> None:
    revoke(own)
    list_of(own).unlink()
    assert "revocations.json is missing" in refusal(own)


def test_entries_from_before_reinstatements_still_revoke() -> None:
    entry = {"kind": "revocation", "facts": {"certificate": "cert-1", "reason": "old"}}
    assert ledger.revocations([entry]) == {
        "cert-1": Revocation(id="cert-1", content="", reason="old")
    }


def test_a_list_from_before_content_was_named_still_revokes(made: Made) -> None:
    entry = {"id": made.certificate.id, "reason": "old", "at": NOW.isoformat()}
    write_statement(list_of(made), made.key, revocations.FIRST_TYPE, {}, {"revoked": [entry]})
    assert f"{made.certificate.id} is revoked (old)" in refusal(made)
    put_on_list(made, made.key, "cert-1")
    assert listed(made) == {made.certificate.id, "cert-1"}
    assert "is revoked (old)" in refusal(made)


def test_the_same_model_under_another_certificate_is_revoked_too(own: Made, tmp_path: Path) -> None:
    """Another card: another subject, and another certificate. Another graph: another model."""
    again, other = tmp_path / "again", tmp_path / "other"
    for folder, name in ((again, "card.md"), (other, "model.onnx")):
        shutil.copytree(own.folder, folder)
        (folder / "certificate.json").unlink()
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        issue(own.key, folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    revoke(own)
    message = refusal(replace(own, folder=again))
    assert f"certificate {own.certificate.id} is revoked (labels were wrong)" in message
    assert "and its model is this one" in message
    assert f"reinstate --certificate_id {own.certificate.id}" in message
    replace(own, folder=other).clear()
    reinstate(own)
    replace(own, folder=again).clear()


def test_a_new_signing_key_makes_no_believed_certificate_of_a_revoked_one(own: Made) -> None:
    key, trusted = other_key(), own.home.root.with_name("trusted")
    (trusted / "new.pem").write_bytes(public_pem(key.private.public_key()))
    revoke(own)
    new = issue(key, own.folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    assert new.id != own.certificate.id
    assert f"certificate {own.certificate.id} is revoked" in refusal(own)
