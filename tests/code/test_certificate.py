"""Nothing flies without a certificate: every reason to refuse, and what the refusal says."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta

import pytest
from certificate_helpers import FLIGHTS, Made, other_key, refusal
from killing import killed_at
from serving_helpers import NOW, predicate, write_model

from feature_repo.errors import CertificateError, StateError
from feature_repo.home import open_home
from serving import certificate, dsse
from serving.predictor import Predictor
from serving.statements import read_statement, write_statement

FILES = (
    "model.onnx", "preprocess.json", "model.json", "evaluation.json", "gate.json", "lineage.json",
    "card.md", "card.html", "calibration.png", "certificate.json", "fallback/model.onnx",
    "fallback/preprocess.json", "fallback/model.json",
)  # fmt: skip


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


def test_the_words_of_an_unsigned_certificate_name_no_path(made: Made) -> None:
    """Its use case is part of a path, so the signature is checked before."""
    outside = made.home.root / "elsewhere" / made.certificate.subject / "release.json"
    outside.parent.mkdir(parents=True)
    (made.home.root / "releases").mkdir()
    outside.write_text("{}")
    (made.folder / "certificate.json").unlink()
    liar = {**predicate(FLIGHTS), "use_case": "../elsewhere"}
    stranger = other_key()
    certificate.issue(stranger, made.folder, liar, timedelta(days=90), NOW)
    message = refusal(made)
    assert stranger.keyid in message
    assert "release.json" not in message


def test_a_file_that_cannot_be_read_is_refused_by_name(made: Made) -> None:
    (made.folder / "card.md").chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        for folder in (made.folder, *made.folder.parents[:5]):
            folder.chmod(folder.stat().st_mode | 0o755) if folder.owner() == "root" else None
        os.seteuid(65534)
    try:
        with pytest.raises(CertificateError, match=r"cannot be read \(Permission denied\)"):
            certificate.subject_files(made.folder)
    finally:
        os.seteuid(user)


def test_a_home_that_cannot_be_made_is_named() -> None:
    with pytest.raises(StateError, match="AIRWORTHY_HOME"):
        open_home("/proc/nowhere/home")


@pytest.mark.parametrize("name", ["model.onnx", "preprocess.json"])
def test_a_file_changed_after_the_check_is_not_loaded(made: Made, name: str) -> None:
    """Swapped between verification and loading."""
    cleared = made.clear().certificate
    (made.folder / name).write_bytes((made.folder / name).read_bytes() + b" ")
    with pytest.raises(CertificateError, match="changed after it was verified"):
        Predictor(FLIGHTS, made.folder, cleared.files)


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


def test_killed_at_any_moment_issuing_leaves_no_foreign_file(made: Made) -> None:
    """A half-written certificate in the directory would have every later start refused."""
    line, died = 1, True
    while died:
        (made.folder / "certificate.json").unlink(missing_ok=True)

        def issue() -> object:
            return certificate.issue(
                made.key, made.folder, predicate(FLIGHTS), timedelta(days=90), NOW
            )

        died = killed_at(line, "feature_repo.home", issue)
        assert certificate.subject_files(made.folder) == made.certificate.files, line
        issue()
        made.clear()
        line += 1
    assert line > 20  # the lines of feature_repo.home: each was the last of a process


def test_a_damaged_certificate_is_issued_anew(made: Made) -> None:
    (made.folder / "certificate.json").write_text("{")
    certificate.issue(made.key, made.folder, predicate(FLIGHTS), timedelta(days=1), NOW)
    made.clear()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"payload": 1}', '{"payloadType": "x"}'])
def test_no_envelope_at_all_is_refused(made: Made, text: str) -> None:
    (made.folder / "certificate.json").write_text(text)
    assert "certificate.json" in refusal(made)
