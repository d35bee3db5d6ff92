"""A release: asked over HTTP, compared with offline, signed once, finished after a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from log_helpers import every
from release_helpers import FLIGHTS, Ready
from serving_helpers import predicate, write_model

from feature_repo.errors import (
    AirworthyError,
    CertificateError,
    PromotionError,
    StateError,
)
from feature_repo.home import digest_of, file_digest, folder_digests
from serving import certificate, dsse, ledger
from serving.predictions import find
from serving.releases import read_current
from serving.statements import read_statement
from tasks.audit import released
from tasks.ledger import own_trust


def test_a_release_is_probed_signed_and_done_once(ready: Ready) -> None:
    shutil.copytree(ready.home.root / "ledger", ready.home.root / "before")
    made = ready.release()
    assert made.released
    assert not made.already
    assert made.probes == 3
    assert made.max_difference < 1e-5
    recorded = find(ready.home, made.prediction_id)
    assert recorded is not None
    assert recorded.subject == made.subject == ready.folder.name
    manifest = yaml.safe_load(Path(made.manifest).read_text())
    assert manifest["kind"] == "InferenceService"
    assert made.subject in Path(made.manifest).read_text()
    with pytest.raises(StateError, match="no model of 'flights' is champion"):
        read_current(ready.home, "flights")  # the promotion, which follows, moves the pointer
    parity = read_statement(
        ready.statement, certificate.RELEASE_TYPE, own_trust(ready.home)
    ).predicate["parity"]
    assert parity["rows"] == 2 * 6 * len(FLIGHTS.views)
    assert (parity["values"] > parity["rows"], parity["mismatches"]) == (True, 0)
    assert file_digest(ready.statement.with_name("parity.json")) == parity["report"]
    before = ready.statement.read_bytes()
    predictions = len(every(ready.home, FLIGHTS))

    again = ready.release()
    assert again.already
    assert (again.probes, again.prediction_id) == (made.probes, made.prediction_id)
    assert ready.statement.read_bytes() == before
    assert len(every(ready.home, FLIGHTS)) == predictions > 0
    entries = [e for e in ledger.entries(ready.home) if e["kind"] == "release"]
    assert [e["subject"] for e in entries] == [made.subject]
    assert entries[0]["facts"]["parity"] == parity
    faults: list[AirworthyError] = []
    told = "\n".join(released(ready.home, "flights", made.subject, faults))
    assert f"{parity['rows']:,} rows, {parity['values']:,} values, 0 mismatches" in told
    assert f"{parity['report']} (stored, verified)" in told
    assert faults == []
    report = ready.statement.with_name("parity.json")
    report.write_bytes(report.read_bytes() + b" ")
    told = "\n".join(released(ready.home, "flights", made.subject, faults))
    assert "(stored, but CHANGED)" in told
    assert [str(fault) for fault in faults] == [
        f"stored {report} was changed: find out by whom, and restore it"
    ]

    # Killed after the statement: the rerun completes the ledger, and starts no server.
    shutil.rmtree(ready.home.root / "ledger")
    (ready.home.root / "before").rename(ready.home.root / "ledger")
    for file in (ready.home.root / "online").iterdir():
        file.unlink()
    healed = ready.release()
    assert healed.already
    entries = [e for e in ledger.entries(ready.home) if e["kind"] == "release"]
    assert [e["subject"] for e in entries] == [made.subject]


def test_a_refused_model_is_not_released(ready: Ready) -> None:
    (ready.folder / "certificate.json").unlink()
    refused = predicate(FLIGHTS, gate={"passed": False, "verdicts": []})
    key, now = dsse.signing_key(ready.home), datetime.now(timezone.utc)
    certificate.issue(key, ready.folder, refused, timedelta(days=90), now)
    with pytest.raises(PromotionError, match="never released"):
        ready.release()


def test_an_expired_certificate_blocks_a_new_release(ready: Ready) -> None:
    (ready.folder / "certificate.json").unlink()
    key, long_ago = dsse.signing_key(ready.home), datetime(2020, 1, 1, tzinfo=timezone.utc)
    certificate.issue(key, ready.folder, predicate(FLIGHTS), timedelta(days=90), long_ago)
    with pytest.raises(CertificateError, match="expired"):
        ready.release()


def test_a_model_that_cannot_be_loaded_says_why(ready: Ready) -> None:
    """Certified, but its preprocessing is not what this program reads."""
    folder = ready.home.path("models", "flights", "broken")
    write_model(folder, FLIGHTS)
    (folder / "preprocess.json").write_text(json.dumps({"numeric": []}))
    folder = folder.rename(folder.with_name(digest_of(folder_digests(folder))))
    now = datetime.now(timezone.utc)
    certificate.issue(
        dsse.signing_key(ready.home), folder, predicate(FLIGHTS), timedelta(days=9), now
    )
    broken = replace(ready, folder=folder)
    with pytest.raises(StateError, match="cannot be loaded"):
        broken.release()
