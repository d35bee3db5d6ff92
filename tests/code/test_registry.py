"""Certification and the registry on a real MLflow store: once, healed, and never a refused one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from judging_helpers import Judged, fresh_home, judged, state_of
from killing import killed_at
from registry_helpers import aliases, copy_of, directory_of, promotions, put_in, revoke, versions
from toy import toy_registered

from feature_repo.errors import CertificateError, PromotionError
from feature_repo.home import Home
from serving import certificate, ledger
from serving.releases import read_current
from tasks.ledger import own_trust
from tasks.promotion import promote, promote_released, promote_version
from tasks.tracking import client

STRIDE = 1 if os.environ.get("AIRWORTHY_LONG_DRILLS") else 7  # lines between two kills


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with toy_registered():
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Judged, Judged]:
    """A home with a good and a refused model, certified, not registered."""
    home = fresh_home(tmp_path_factory.mktemp("template") / "home")
    return home, judged(home, slope=0.8), judged(home, slope=-0.8)


@pytest.fixture
def home(template: tuple[Home, Judged, Judged], tmp_path: Path) -> Home:
    return copy_of(template[0], tmp_path / "home")


def test_the_certificate_tells_the_whole_story(template: tuple[Home, Judged, Judged]) -> None:
    home, good, refused = template
    issued = certificate.read(directory_of(home, good))
    told = issued.predicate
    assert told["version"] == "1.0.0"
    assert told["gate"]["passed"] is True
    assert told["execution"] == "local-1"
    assert told["data"]["sources"] == [{"name": "flights.csv", "sha256": "5" * 64, "bytes": 1234}]
    assert told["data"]["quarantine"]["rows"] == 2
    assert told["training"]["table"] == good.training_set.digest
    assert set(told["training"]["splits"]) == {"training", "validation", "test"}
    cost = {"seconds": 1.5, "cpu_seconds": 2.25, "gpu_seconds": 0.5, "steps": {"train": 1.5}}
    assert told["cost"] == cost
    assert len(told["code"]["lock"]) == 64
    assert told["metrics"]["test"]["ci"]["auc"]
    life = datetime.fromisoformat(told["expires_at"]) - datetime.fromisoformat(told["issued_at"])
    assert life == timedelta(days=90)
    assert certificate.read(directory_of(home, refused)).predicate["gate"]["passed"] is False
    assert not refused.certified.passed


def test_certifying_again_changes_nothing(template: tuple[Home, Judged, Judged]) -> None:
    home, good, _ = template
    before = (directory_of(home, good) / "certificate.json").read_bytes()
    again = judged(home, slope=0.8).certified
    assert again.already
    assert (again.subject, again.version) == (good.certified.subject, "1.0.0")
    assert (directory_of(home, good) / "certificate.json").read_bytes() == before
    assert len([e for e in ledger.entries(home) if e["kind"] == "certificate"]) == 2


def test_a_changed_directory_is_not_certified_again(home: Home, tmp_path: Path) -> None:
    fresh = fresh_home(tmp_path / "fresh")
    run = judged(fresh)
    (directory_of(fresh, run) / "model.onnx").write_bytes(b"other weights")
    with pytest.raises(CertificateError, match="something changed it; delete"):
        judged(fresh)


def test_registering_is_idempotent(home: Home, template: tuple[Home, Judged, Judged]) -> None:
    good, refused = template[1:]
    assert [put_in(home, r) for r in (good, good, refused, good)] == ["1", "1", "2", "1"]
    tags = versions(home)
    assert tags["1"]["airworthy.gate"] == "passed"
    assert tags["2"]["airworthy.gate"] == "refused"
    assert tags["1"]["airworthy.subject"] == good.certified.subject
    assert tags["1"]["airworthy.certificate"] == good.certified.certificate
    assert aliases(home) == {"candidate": "2"}
    kinds = [e["kind"] for e in ledger.entries(home)]
    assert kinds.count("registration") == 2


def test_card_and_metrics_are_with_the_training_run(
    home: Home, template: tuple[Home, Judged, Judged]
) -> None:
    good = template[1]
    put_in(home, good)
    put_in(home, good)
    mlflow = client(home)
    run = mlflow.get_run(mlflow.get_model_version("toy", "1").run_id)
    assert run.data.tags["airworthy.trained"] == good.trained.digest
    measured = json.loads((Path(good.evaluation.uri) / "evaluation.json").read_text())
    assert run.data.metrics["test_auc"] == measured["test"]["auc"]
    folder = f"certified/{good.certified.subject[:12]}"
    files = {a.path.rsplit("/", 1)[-1] for a in mlflow.list_artifacts(run.info.run_id, folder)}
    assert {"card.md", "card.html", "calibration.png", "evaluation.json"} <= files


def test_a_passed_model_is_promoted_and_a_refused_one_never(
    home: Home, template: tuple[Home, Judged, Judged]
) -> None:
    good, refused = template[1:]
    put_in(home, good)
    put_in(home, refused)
    state = state_of(home)
    promote(state=state, use_case="toy", version=good.certified.version)
    with pytest.raises(PromotionError, match="refused by the gate"):
        promote(state=state, use_case="toy", version=refused.certified.version)
    left = promote_released(
        state=state, use_case="toy", version=refused.certified.version, passed=False
    )
    assert not left.champion
    assert aliases(home)["champion"] == "1"
    assert promotions(home) == ["1.0.0"]


def test_a_forged_tag_does_not_promote(home: Home, template: tuple[Home, Judged, Judged]) -> None:
    refused = template[2]
    put_in(home, refused)
    client(home).set_model_version_tag("toy", "1", "airworthy.gate", "passed")
    with pytest.raises(PromotionError, match="the gate refused this model"):
        promote_version(home, "toy", refused.certified.version)


def test_an_unknown_version_is_refused_with_the_known_ones(
    home: Home, template: tuple[Home, Judged, Judged]
) -> None:
    with pytest.raises(PromotionError, match="known versions: none"):
        promote_version(home, "toy", "1.0.0")
    put_in(home, template[1])
    with pytest.raises(PromotionError, match=r"known versions: 1\.0\.0"):
        promote_version(home, "toy", "9.9.9")


def test_an_altered_model_is_not_promoted(
    home: Home, template: tuple[Home, Judged, Judged]
) -> None:
    put_in(home, template[1])
    card = directory_of(home, template[1]) / "card.md"
    card.write_text(card.read_text() + " ")
    with pytest.raises(PromotionError, match=r"card\.md"):
        promote_version(home, "toy", "1.0.0")


def test_a_revoked_certificate_is_not_promoted(
    home: Home, template: tuple[Home, Judged, Judged]
) -> None:
    put_in(home, template[1])
    issued = template[1].certified.certificate
    revoke(home, issued)
    with pytest.raises(PromotionError, match=f"revoked.*reinstate --certificate_id {issued}"):
        promote_version(home, "toy", "1.0.0")


def test_killed_at_many_moments_registering_and_promoting_heal(
    template: tuple[Home, Judged, Judged], tmp_path: Path
) -> None:
    good = template[1]
    line, died = 1, True
    while died:
        home = copy_of(template[0], tmp_path / f"killed-{line}")

        def action(home: Home = home) -> None:
            put_in(home, good)
            promote_version(home, "toy", "1.0.0")

        died = killed_at(line, "tasks.registry tasks.promotion", action)
        action()
        assert list(versions(home)) == ["1"], line
        assert aliases(home) == {"candidate": "1", "champion": "1"}
        kinds = [e["kind"] for e in ledger.entries(home)]
        assert kinds.count("registration") == kinds.count("promotion") == 1
        assert read_current(home, "toy") == (directory_of(home, good), "1.0.0")
        ledger.verify(home, own_trust(home))
        line += STRIDE
    assert line > 60  # the lines of one undisturbed run
