"""Whose signatures count, and what exactly they cover."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from certificate_helpers import FLIGHTS, Made, other_key, refusal
from serving_helpers import NOW, certified_model, predicate

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from serving import certificate, dsse


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
