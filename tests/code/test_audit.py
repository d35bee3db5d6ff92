"""The audit: from an answer to raw files, and the champions over time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from judging_helpers import Judged, fresh_home, judged, state_release, toy_registered

from feature_repo.errors import LedgerError, StateError
from feature_repo.home import Home, open_home
from feature_repo.tables import table_place
from serving import dsse, revocations
from serving.predictions import Prediction, PredictionLog
from tasks.audit import audit, audit_report
from tasks.registry import promote_version, register_version

NOW = datetime(2013, 12, 1, 12, 0, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Judged]:
    """A home with two champions in turn and one answer by the second."""
    with toy_registered():
        home = fresh_home(tmp_path_factory.mktemp("audit") / "home")
        for slope, version in ((0.8, "1.0.0"), (0.75, "1.1.0")):
            run = judged(home, slope=slope)
            register_version(home, "toy", Path(run.certified.model_dir), run.trained)
            state_release(home, Path(run.certified.model_dir))
            promote_version(home, "toy", version)
        log = PredictionLog(home, "toy")
        log.record([answer(run)])
        log.close()
    return home, run


def answer(run: Judged) -> Prediction:
    return Prediction(
        id="p1", use_case="toy", at=NOW, prediction_time=NOW, tick=NOW,
        fields={"origin": "JFK", "carrier": "B6"}, score=0.25, version=run.certified.version,
        certificate=run.certified.certificate, subject=run.certified.subject,
        features={"origin_delay_mean": 3.0}, ages_minutes={"origin_departures": 15.0},
    )  # fmt: skip


@pytest.fixture
def home(template: tuple[Home, Judged], tmp_path: Path) -> Home:
    shutil.copytree(template[0].root, tmp_path / "home")
    return open_home(str(tmp_path / "home"))


def test_the_chain_reaches_from_the_answer_to_the_raw_files(
    home: Home, template: tuple[Home, Judged]
) -> None:
    run = template[1]
    text = audit(home, "p1")
    for link in (
        "6 entries, chain and signed head verified", "p1 (online): 0.250000", "origin=JFK",
        "toy 1.1.0", run.certified.subject, run.certified.certificate, "every file as signed by",
        "local-1", run.training_set.digest, "(stored, verified)", "quarantine   2 rows",
        "flights.distance: in_range(0, 9999)", "flights.csv, 1,234 bytes, sha256 " + "5" * 64,
    ):  # fmt: skip
        assert link in text, link


def test_the_history_names_each_champion_with_its_time(home: Home) -> None:
    first, second = audit(home, model="toy").splitlines()[-2:]
    assert "1.0.0" in first
    assert "1.1.0" in second
    assert " to now " in second


def test_an_unknown_id_or_model_is_a_clear_error(home: Home) -> None:
    with pytest.raises(StateError, match="no prediction 'nope'"):
        audit(home, "nope")
    with pytest.raises(StateError, match="no model 'nope'; it knows toy"):
        audit(home, model="nope")
    with pytest.raises(StateError, match="nothing to audit"):
        audit(home)


def test_a_changed_ledger_stops_the_audit(home: Home) -> None:
    path = home.root / "ledger" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1.0.0", b"1.0.9", 1))
    with pytest.raises(LedgerError, match="line 1 was changed"):
        audit(home, "p1")


def test_changed_and_lost_objects_are_told(home: Home, template: tuple[Home, Judged]) -> None:
    run = template[1]
    stored = table_place(home, run.training_set.digest)
    stored.write_bytes(stored.read_bytes() + b"!")
    assert "(stored, but CHANGED)" in audit(home, "p1")
    stored.unlink()
    assert "(no longer stored)" in audit(home, "p1")
    model = home.root / "models" / "toy" / run.certified.subject / "model.onnx"
    model.write_bytes(b"!")
    assert "FAILED" in audit(home, "p1")
    shutil.rmtree(model.parent)
    text = audit(home, "p1")
    assert "the model directory is no longer stored" in text
    assert "5" * 64 in text


def test_a_revoked_certificate_is_still_an_honest_one(
    home: Home, template: tuple[Home, Judged]
) -> None:
    run = template[1]
    revocations.revoke(home, dsse.signing_key(home), run.certified.certificate, "test", NOW)
    text = audit(home, "p1")
    assert "REVOKED" in text
    assert "FAILED" not in text


def test_an_answer_of_a_model_that_was_never_certified_here_is_told(
    home: Home, template: tuple[Home, Judged]
) -> None:
    log = PredictionLog(home, "toy")
    log.record([replace(answer(template[1]), id="p2", certificate="cert-0")])
    log.close()
    with pytest.raises(LedgerError, match="no entry of certificate cert-0"):
        audit(home, "p2")


def test_the_task_answers_with_the_report(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))
    text = audit_report(prediction_id="p1", model="toy")
    assert "champions of toy" in text
