"""Nothing flies without a certificate: every reason to refuse, and what the refusal says."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from serving_helpers import NOW, certified_model, predicate, write_model

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import certificate, dsse
from serving.certificate import Certificate, Cleared
from serving.statements import read_statement, write_statement

FLIGHTS = get_use_case("flights")
FILES = (
    "model.onnx", "preprocess.json", "model.json", "evaluation.json", "gate.json", "lineage.json",
    "card.md", "card.html", "calibration.png", "certificate.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Made:
    """A home with one certified model, signed by a production key that is trusted."""

    home: Home
    folder: Path
    certificate: Certificate
    key: dsse.SigningKey

    def clear(self, days: int = 0) -> Cleared:
        """The check that a server does, ``days`` from now, without development keys."""
        return certificate.clear(
            self.home, self.folder, dsse.trust(self.home), NOW + timedelta(days=days)
        )


def pem_of(key: Ed25519PrivateKey) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def other_key(development: bool = False) -> dsse.SigningKey:
    """A fresh key that nobody trusts yet."""
    private = Ed25519PrivateKey.generate()
    keyid = dsse.key_id(private.public_key())
    return dsse.SigningKey(keyid=keyid, development=development, private=private)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A certified model and the environment of an installation with its own key."""
    home, trusted = Home(root=tmp_path / "home"), tmp_path / "trusted"
    trusted.mkdir()
    private = Ed25519PrivateKey.generate()
    (tmp_path / "signing.pem").write_bytes(pem_of(private))
    (trusted / "release-team.pem").write_bytes(dsse.public_pem(private.public_key()))
    monkeypatch.setenv("AIRWORTHY_SIGNING_KEY", str(tmp_path / "signing.pem"))
    monkeypatch.setenv("AIRWORTHY_TRUSTED_KEYS", str(trusted))
    monkeypatch.delenv("AIRWORTHY_ALLOW_DEVELOPMENT_KEY", raising=False)
    key = dsse.signing_key(home)
    folder, issued = certified_model(home, FLIGHTS, key)
    return Made(home=home, folder=folder, certificate=issued, key=key)


def refusal(made: Made, days: int = 0) -> str:
    """Why the model is refused."""
    with pytest.raises(CertificateError) as refused:
        made.clear(days)
    return str(refused.value)


def test_a_certified_model_is_cleared(made: Made) -> None:
    cleared = made.clear()
    assert cleared.certificate.id.startswith("cert-")
    assert cleared.certificate.subject == made.folder.name
    assert not cleared.expired
    assert not cleared.certificate.development


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_in_any_file_is_refused_by_name(
    made: Made, name: str, position: int
) -> None:
    content = bytearray((made.folder / name).read_bytes())
    content[position] ^= 1
    (made.folder / name).write_bytes(content)
    message = refusal(made)
    assert name in message
    assert "restore" in message


def test_every_byte_of_a_certificate_counts(made: Made) -> None:
    """Base64 and JSON can say the same in other bytes; those are refused too."""
    path = made.folder / "certificate.json"
    content, trust = path.read_bytes(), dsse.trust(made.home)
    changed = made.home.root / "changed.json"
    for position in range(len(content)):
        for bit in (0, 5):
            altered = bytearray(content)
            altered[position] ^= 1 << bit
            changed.write_bytes(altered)
            with pytest.raises(CertificateError):
                read_statement(changed, certificate.CERTIFICATE_TYPE, trust)


@pytest.mark.parametrize("name", [n for n in FILES if n != "certificate.json"])
def test_a_missing_file_is_refused_by_name(made: Made, name: str) -> None:
    (made.folder / name).unlink()
    assert f"missing: {name}" in refusal(made)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "deep/er.bin"])
def test_an_added_file_is_refused_by_name(made: Made, name: str) -> None:
    (made.folder / name).parent.mkdir(exist_ok=True)
    (made.folder / name).write_bytes(b"")
    assert f"not certified: {name}" in refusal(made)


def test_a_link_is_refused(made: Made) -> None:
    content = (made.folder / "card.md").rename(made.home.root / "card.md")
    (made.folder / "card.md").symlink_to(content)
    assert "card.md is a link" in refusal(made)


def test_no_certificate_is_refused(made: Made) -> None:
    (made.folder / "certificate.json").unlink()
    message = refusal(made)
    assert "certificate.json does not exist" in message
    assert "certify" in message


def test_a_certificate_of_another_model_is_refused(made: Made) -> None:
    other = made.home.path("models", "flights", "other")
    write_model(other, FLIGHTS, threshold=0.3)
    certificate.issue(made.key, other, predicate(FLIGHTS), timedelta(days=90), NOW)
    shutil.copy(other / "certificate.json", made.folder / "certificate.json")
    message = refusal(made)
    assert "was issued for" in message
    assert "model.json" in message


def test_a_certificate_of_another_declaration_is_refused(made: Made) -> None:
    (made.folder / "certificate.json").unlink()
    features = {"declaration": "0" * 64, "views": []}
    certificate.issue(
        made.key, made.folder, predicate(FLIGHTS, features=features), timedelta(days=90), NOW
    )
    assert "feature declaration 000000000000" in refusal(made)


def test_a_refused_model_is_refused_with_its_failed_rules(made: Made) -> None:
    verdicts = [{"rule": "ranks well", "passed": False}, {"rule": "calibrated", "passed": True}]
    (made.folder / "certificate.json").unlink()
    refused = predicate(FLIGHTS, gate={"passed": False, "verdicts": verdicts})
    certificate.issue(made.key, made.folder, refused, timedelta(days=90), NOW)
    message = refusal(made)
    assert "gate refused" in message
    assert "ranks well" in message
    assert "calibrated" not in message


def test_a_valid_signature_by_an_untrusted_key_is_refused(made: Made) -> None:
    (made.folder / "certificate.json").unlink()
    stranger = other_key()
    certificate.issue(stranger, made.folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    message = refusal(made)
    assert stranger.keyid in message
    assert "AIRWORTHY_TRUSTED_KEYS" in message


def test_a_key_id_alone_proves_nothing(made: Made) -> None:
    path = made.folder / "certificate.json"
    path.unlink()
    certificate.issue(other_key(), made.folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    envelope = json.loads(path.read_bytes())
    envelope["signatures"][0]["keyid"] = made.key.keyid
    path.write_text(json.dumps(envelope, indent=1))
    assert "does not fit the content" in refusal(made)


def test_a_signature_under_another_payload_type_is_refused(made: Made) -> None:
    path = made.folder / "certificate.json"
    envelope = json.loads(path.read_bytes())
    envelope["payloadType"] = "application/json"
    path.write_text(json.dumps(envelope, indent=1))
    assert "does not fit the content" in refusal(made)


def test_a_development_key_counts_only_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SIGNING_KEY", "TRUSTED_KEYS", "ALLOW_DEVELOPMENT_KEY"):
        monkeypatch.delenv(f"AIRWORTHY_{name}", raising=False)
    home = Home(root=tmp_path)
    folder, _ = certified_model(home, FLIGHTS)
    with pytest.raises(CertificateError, match="--allow-development-key"):
        certificate.clear(home, folder, dsse.trust(home), NOW)
    allowed = certificate.clear(home, folder, dsse.trust(home, allow_development=True), NOW)
    assert allowed.certificate.development
    monkeypatch.setenv("AIRWORTHY_ALLOW_DEVELOPMENT_KEY", "1")
    assert certificate.clear(home, folder, dsse.trust(home), NOW).certificate.development


def test_a_development_key_among_the_trusted_keys_is_still_refused(
    made: Made, tmp_path: Path
) -> None:
    """Whether it says that it is one, or lies."""
    (made.folder / "certificate.json").unlink()
    honest = other_key(development=True)
    public = dsse.public_pem(honest.private.public_key())
    (tmp_path / "trusted" / "laptop.pem").write_bytes(public)
    certificate.issue(honest, made.folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    assert "development key" in refusal(made)
    keys = made.home.path("keys", "development.pub.pem")
    keys.write_bytes(public)
    (made.folder / "certificate.json").unlink()
    liar = dsse.SigningKey(keyid=honest.keyid, development=False, private=honest.private)
    certificate.issue(liar, made.folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    assert "development key" in refusal(made)


def test_the_development_private_key_is_readable_by_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRWORTHY_SIGNING_KEY", raising=False)
    home = Home(root=tmp_path)
    first, again = dsse.signing_key(home), dsse.signing_key(home)
    assert first.keyid == again.keyid
    assert first.development
    assert (tmp_path / "keys" / "development.pem").stat().st_mode & 0o777 == 0o600


def test_a_revoked_certificate_is_refused(made: Made) -> None:
    certificate.revoke(made.home, made.key, "cert-0000000000000000", "a test of the list", NOW)
    made.clear()
    certificate.revoke(made.home, made.key, made.certificate.id, "labels were wrong", NOW)
    certificate.revoke(made.home, made.key, made.certificate.id, "labels were wrong", NOW)
    message = refusal(made)
    assert made.certificate.id in message
    assert "revoked" in message


def test_an_unsigned_or_altered_list_of_revocations_refuses_everything(made: Made) -> None:
    path = made.home.path("trust", "revocations.json")
    path.write_text('{"revoked": []}')
    assert "revocations.json" in refusal(made)
    path.unlink()
    certificate.revoke(made.home, other_key(), "cert-1", "by a stranger", NOW)
    assert "revocations.json" in refusal(made)
    with pytest.raises(CertificateError, match=r"revocations\.json"):
        certificate.revoke(made.home, made.key, "cert-2", "on top of a stranger's list", NOW)


def test_an_unknown_format_is_refused(made: Made) -> None:
    path = made.folder / "certificate.json"
    files = certificate.subject_files(made.folder)
    later = dict(made.certificate.predicate, format="airworthy.certificate/v9")
    write_statement(path, made.key, certificate.CERTIFICATE_TYPE, files, later)
    assert "airworthy.certificate/v9" in refusal(made)
    other_type = "https://airworthy.dev/certificate/v9"
    write_statement(path, made.key, other_type, files, made.certificate.predicate)
    assert "certificate/v9" in refusal(made)


def release(made: Made, key: dsse.SigningKey, days: int, subject: str = "") -> None:
    """A release statement, ``days`` from now."""
    subject = subject or made.certificate.subject
    stated = {"subject": subject, "released_at": (NOW + timedelta(days=days)).isoformat()}
    path = certificate.release_path(made.home, "flights", made.certificate.subject)
    write_statement(path, key, certificate.RELEASE_TYPE, made.certificate.files, stated)


def test_an_expired_certificate_blocks_a_model_that_was_never_released(made: Made) -> None:
    made.clear(days=89)
    assert "expired" in refusal(made, days=91)


def test_an_expired_model_restarts_with_a_warning_when_it_was_released(made: Made) -> None:
    release(made, made.key, days=10)
    assert not made.clear(days=89).expired
    assert made.clear(days=91).expired


def test_a_release_after_the_expiry_does_not_help(made: Made) -> None:
    release(made, made.key, days=95)
    assert "expired" in refusal(made, days=96)


def test_a_release_statement_of_a_stranger_or_another_model_refuses(made: Made) -> None:
    release(made, other_key(), days=10)
    assert "release.json" in refusal(made, days=91)
    release(made, made.key, days=10, subject="0" * 64)
    assert "another model" in refusal(made, days=91)


def test_issuing_again_changes_nothing(made: Made) -> None:
    before = (made.folder / "certificate.json").read_bytes()
    again = certificate.issue(
        made.key, made.folder, predicate(FLIGHTS), timedelta(days=1), NOW + timedelta(days=1)
    )
    assert again.id == made.certificate.id
    assert (made.folder / "certificate.json").read_bytes() == before


def test_a_damaged_certificate_is_issued_anew(made: Made) -> None:
    (made.folder / "certificate.json").write_text("{")
    certificate.issue(made.key, made.folder, predicate(FLIGHTS), timedelta(days=1), NOW)
    made.clear()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"payload": 1}', '{"payloadType": "x"}'])
def test_no_envelope_at_all_is_refused(made: Made, text: str) -> None:
    (made.folder / "certificate.json").write_text(text)
    assert "certificate.json" in refusal(made)


def test_a_trusted_keys_folder_that_is_missing_or_damaged_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted" / "broken.pem").write_text("no key")
    with pytest.raises(CertificateError, match=r"broken\.pem"):
        dsse.trust(made.home)
    monkeypatch.setenv("AIRWORTHY_TRUSTED_KEYS", str(tmp_path / "nowhere"))
    with pytest.raises(CertificateError, match="nowhere"):
        dsse.trust(made.home)


def test_the_signed_bytes_are_those_of_the_standard() -> None:
    """The protocol's own example."""
    encoded = dsse.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
