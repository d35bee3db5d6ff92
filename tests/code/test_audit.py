"""The audit: from an answer to raw files, and the champions over time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from judging_helpers import Judged, fresh_home, judged, state_release
from log_helpers import as_answered, record, rewrite
from toy import TOY, toy_registered

from feature_repo.errors import CertificateError, LedgerError, SkewError, StateError
from feature_repo.home import Home, open_home
from feature_repo.inputs import input_columns, model_inputs
from feature_repo.registry import USE_CASES
from feature_repo.tables import read_table, table_place
from serving import dsse, ledger, revocations
from serving.certificate import read
from serving.ledger import Revocation
from serving.predictions import Prediction, find
from serving.predictor import Predictor
from serving.releases import write_current
from serving.sealing import seal_ended
from serving.segments import PredictionLog
from tasks.audit import audit, audit_report
from tasks.probe import agree
from tasks.promotion import promote_version
from tasks.registry import register_version
from tasks.rows import labelled_rows
from tasks.trust import reinstate_certificate, revoke_certificate

NOW = datetime(2013, 12, 1, 12, 0, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Judged]]:
    """A home with two champions in turn and one answer by the second."""
    with toy_registered():
        home = fresh_home(tmp_path_factory.mktemp("audit") / "home")
        for slope, version in ((0.8, "1.0.0"), (0.75, "1.1.0")):
            run = judged(home, slope=slope)
            register_version(home, "toy", Path(run.certified.model_dir), run.trained)
            state_release(home, Path(run.certified.model_dir))
            promote_version(home, "toy", version)
        record(home, TOY, answer(run))
        yield home, run


def answer(run: Judged) -> Prediction:
    """An answer to a row of the training set, with the score that the batch got."""
    rows = read_table(run.training_set)
    columns = labelled_rows(TOY, rows, "test").columns
    score = Predictor(TOY, Path(run.certified.model_dir)).predict(columns)[0]
    fields = {f.name: columns[f.name][0] for f in TOY.fields}
    features = {s.name: float(columns[s.name][0]) for s in TOY.features}
    tick = columns["tick"][0].astype("datetime64[s]").item().replace(tzinfo=timezone.utc)
    return Prediction(
        id="p1", use_case="toy", at=NOW, prediction_time=tick, tick=tick, fields=fields,
        score=float(score), version=run.certified.version,
        certificate=run.certified.certificate, subject=run.certified.subject,
        features=features, ages_minutes={"origin_departures": 15.0},
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
        "6 entries, chain and signed head verified", "p1 (online): 0.", "carrier=",
        "recomputed from the recorded inputs by this model: equal",
        "toy 1.1.0", run.certified.subject, run.certified.certificate, "every file as signed by",
        "local-1", run.training_set.digest, "(stored, verified)",
        "training set 6,000 rows, of them ", " training, ", "quarantine   2 rows",
        "flights.distance: in_range(0, 9999)", "flights.csv, 1,234 bytes, sha256 " + "5" * 64,
    ):  # fmt: skip
        assert link in text, link


def test_an_answer_to_a_vector_is_recomputed_from_it(
    home: Home, template: tuple[Home, Judged]
) -> None:
    """The numbers that the caller sent, and the words among the fields; no tick."""
    columns = labelled_rows(TOY, read_table(template[1].training_set), "test").columns
    inputs, names = model_inputs(TOY, columns), input_columns(TOY)
    vector = replace(
        answer(template[1]), id="v1", tick=None, layout="vector", ages_minutes={},
        features={name: float(inputs[name][0]) for name in names.numeric},
        fields={name: str(inputs[name][0]) for name in names.categorical},
    )  # fmt: skip
    record(home, TOY, vector)
    text = audit(home, "v1")
    assert "a vector that the caller sent" in text
    assert "recomputed from the recorded inputs by this model: equal" in text
    rewrite(home, TOY, "v1", score=vector.score + 0.01)
    with pytest.raises(SkewError, match="prediction v1"):
        audit(home, "v1")


def test_the_history_names_each_champion_with_its_time(home: Home) -> None:
    first, second = audit(home, model="toy").splitlines()[-2:]
    assert "1.0.0" in first
    assert "1.1.0" in second
    assert " to now " in second


def test_a_promotion_that_was_cut_short_is_told(
    home: Home, template: tuple[Home, Judged], capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the ledger's entry and the pointer, servers go on with the one before."""
    (first,) = [
        path.parent for path in (home.root / "models" / "toy").glob("*/certificate.json")
        if read(path.parent).predicate["version"] == "1.0.0"
    ]  # fmt: skip
    write_current(home, "toy", first.name, first, "1.0.0")
    with pytest.raises(StateError, match=r"is 1\.1\.0, .* load .*; promote 1\.1\.0 again"):
        audit(home, model="toy")
    assert "champions of toy" in capsys.readouterr().out
    promote_version(home, "toy", "1.1.0")
    audit(home, model="toy")


def test_an_unknown_id_or_model_is_a_clear_error(home: Home) -> None:
    with pytest.raises(StateError, match="no prediction 'nope'"):
        audit(home, "nope")
    with pytest.raises(StateError, match="no model 'nope'; it knows toy"):
        audit(home, model="nope")
    with pytest.raises(StateError, match="nothing to audit"):
        audit(home)


def test_an_answer_of_which_a_share_was_recorded_may_be_missing(
    home: Home, template: tuple[Home, Judged]
) -> None:
    """The log cannot know whether it was asked; it says that it would not."""
    log = PredictionLog(home, TOY, share=0.1)
    log.record(*(as_answered([replace(answer(template[1]), id=i)], TOY) for i in ("q1", "q9")))
    log.close()
    said = r"no prediction 'q5' .*; a server recorded 10 % of its requests then, and this one"
    with pytest.raises(StateError, match=said):
        audit(home, "q5")
    seal_ended(home, "toy")
    with pytest.raises(StateError, match=said):
        audit(home, "q5")
    with pytest.raises(StateError, match=r"the server that gave it$"):
        audit(home, "z")


def test_a_changed_ledger_stops_the_audit(home: Home) -> None:
    path = home.root / "ledger" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1.0.0", b"1.0.9", 1))
    with pytest.raises(LedgerError, match="line 1 was changed"):
        audit(home, "p1")


def test_changed_objects_are_told_and_fail_the_audit(
    home: Home, template: tuple[Home, Judged], capsys: pytest.CaptureFixture[str]
) -> None:
    """All that was found is printed, with the history that was asked for; then comes the error."""
    run = template[1]
    stored = table_place(home, run.training_set.digest)
    stored.write_bytes(stored.read_bytes() + b"!")
    with pytest.raises(StateError, match=f"stored .*{run.training_set.digest}.* was changed"):
        audit(home, "p1", "toy")
    told = capsys.readouterr().out
    assert "(stored, but CHANGED)" in told
    assert "raw file" in told
    assert "champions of toy" in told
    model = home.root / "models" / "toy" / run.certified.subject / "model.onnx"
    model.write_bytes(b"!")
    with pytest.raises(CertificateError, match=r"(?s)changed: model\.onnx.*; stored "):
        audit(home, "p1")
    told = capsys.readouterr().out
    assert "FAILED" in told
    assert "score      not recomputed" in told
    assert "(stored, but CHANGED)" in told


def test_lost_objects_are_told(home: Home, template: tuple[Home, Judged]) -> None:
    """They may be cleaned away."""
    run = template[1]
    table_place(home, run.training_set.digest).unlink()
    assert "(no longer stored)" in audit(home, "p1")
    shutil.rmtree(home.root / "models" / "toy" / run.certified.subject)
    text = audit(home, "p1")
    assert "the model directory is no longer stored" in text
    assert "5" * 64 in text


def test_an_altered_score_is_refused_with_both_values(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = find(home, "p1")
    assert recorded is not None
    rewrite(home, TOY, "p1", score=recorded.score + 2e-5)
    said = re.escape(f"prediction p1: {recorded.score + 2e-5!r} is recorded")
    with pytest.raises(SkewError, match=said) as refused:
        audit(home, "p1")
    (again,) = re.findall(r"gives ([\d.e-]+) to the recorded inputs", str(refused.value))
    assert float(again) == pytest.approx(recorded.score, abs=1e-6)
    assert "FAILED: not the score of the recorded inputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (0.5, 0.500009, True), (0.5, 0.50002, False), (0.001, 0.00102, False),
        (60.0, 60.0005, True), (60.0, 60.001, False), (0.5, float("nan"), False),
    ],
)  # fmt: skip
def test_probe_and_audit_agree_on_what_is_the_same_score(
    one: float, other: float, same: bool
) -> None:
    """Absolute below one, as probabilities are; relative above, as temperatures are."""
    assert agree(one, other) is agree(other, one) is same


@pytest.mark.parametrize(
    ("column", "value", "error", "said"),
    [
        ("features", {"origin_delay_mean": 90.0, "origin_last_at": None}, SkewError, "p1: 0."),
        ("fields", {"origin": "JFK", "carrier": "B6", "distance": "far"}, StateError, "'far'"),
        ("fields", {"origin": "JFK", "carrier": "B6"}, StateError, "'distance'"),
        ("tick", None, StateError, "no tick"),
    ],
)
def test_altered_inputs_are_refused(
    home: Home, column: str, value: object, error: type[Exception], said: str
) -> None:
    rewrite(home, TOY, "p1", **{column: value})
    with pytest.raises(error, match="prediction p1") as refused:
        audit(home, "p1")
    assert said in str(refused.value)


def test_the_score_of_a_model_that_this_program_does_not_declare_is_not_called_equal(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(USE_CASES, "toy", replace(TOY, label="later"))
    text = audit(home, "p1")
    assert "not recomputed, since the model reads feature declaration" in text
    assert "equal" not in text


def test_a_revoked_certificate_is_still_an_honest_one(
    home: Home, template: tuple[Home, Judged]
) -> None:
    run = template[1]
    revoked = Revocation(id=run.certified.certificate, content="", reason="test")
    revocations.complete(home, dsse.signing_key(home), [revoked], NOW)
    text = audit(home, "p1")
    assert "REVOKED" in text
    assert "FAILED" not in text


def test_revoking_the_champion_warns_and_the_history_marks_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it does not do, and the way out; of a model that is not champion no warning."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))
    first, second = (e["facts"] for e in ledger.entries(home) if e["kind"] == "promotion")
    said = revoke_certificate(certificate_id=first["certificate"], reason="too old")
    assert "is not stopped: it goes on answering with it until its next start" in said
    assert "CHAMPION" not in said
    reinstate_certificate(certificate_id=first["certificate"], reason="it is not")
    said = revoke_certificate(certificate_id=second["certificate"], reason="labels were wrong")
    assert "WARNING: IT IS THE CHAMPION, toy 1.1.0" in said
    assert "promote_version --model toy --version 1.0.0 (there is 1.0.0)" in said
    older, newer = audit(home, model="toy").splitlines()[-2:]
    assert newer.endswith("REVOKED: labels were wrong")
    assert "REVOKED" not in older


def test_an_answer_of_a_model_that_was_never_certified_here_is_told(
    home: Home, template: tuple[Home, Judged]
) -> None:
    record(home, TOY, replace(answer(template[1]), id="p2", certificate="cert-0"))
    with pytest.raises(LedgerError, match="no entry of certificate cert-0"):
        audit(home, "p2")


def test_the_task_answers_with_the_report(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(home.root))
    text = audit_report(prediction_id="p1", model="toy")
    assert "champions of toy" in text
