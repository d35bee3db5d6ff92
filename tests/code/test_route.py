"""The cluster's route sends each arm's header to its InferenceService, and the rest to control."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_helpers import experiment

from feature_repo.errors import ManifestError
from feature_repo.home import crd_path
from serving import assignment, mirror, route

GOLDEN = Path(__file__).parents[2] / "deploy" / "kserve" / "flights-experiment.yaml"
CRDS = crd_path()
SERVICES = {"control": "flights-1-0-0", "treatment": "flights-1-1-0"}


def test_the_golden_file_is_what_the_command_writes(tmp_path: Path) -> None:
    path = tmp_path / "route.yaml"
    subprocess.run([sys.executable, "-m", "serving.route", str(path)], check=True)
    assert path.read_text() == GOLDEN.read_text(), "run 'make manifests' and look at the diff"


def test_each_arm_has_a_rule_and_all_else_goes_to_the_control() -> None:
    declared = experiment()
    *matched, rest = route.route(declared, SERVICES, "flights.example.com").document()["spec"][
        "rules"
    ]
    told = {
        rule["matches"][0]["headers"][0]["value"]: rule["backendRefs"][0]["name"]
        for rule in matched
    }
    assert told == {arm: f"{service}-predictor" for arm, service in SERVICES.items()}
    assert "matches" not in rest
    assert rest["backendRefs"][0]["name"] == "flights-1-0-0-predictor"
    name, value = next(iter(assignment.header(declared, "N14228").items()))
    assert {rule["matches"][0]["headers"][0]["name"] for rule in matched} == {name}
    assert value in told


def test_the_golden_mirror_is_what_its_command_writes(tmp_path: Path) -> None:
    path = tmp_path / "mirror.yaml"
    assert mirror.main([str(path)]) == 0
    golden = GOLDEN.with_name("flights-shadow.yaml")
    assert path.read_text() == golden.read_text(), "run 'make manifests' and look at the diff"


def test_a_mirror_of_an_impossible_share_or_name_is_refused() -> None:
    with pytest.raises(ManifestError, match="150 is no percentage"):
        replace(mirror.example(), percent=150)
    with pytest.raises(ManifestError, match=r"requestMirror.backendRef.name: 'A_B'"):
        replace(mirror.example(), shadow="A_B")


def test_names_that_kubernetes_refuses_are_refused() -> None:
    with pytest.raises(ManifestError, match="InferenceService for arm treatment"):
        route.route(experiment(), {"control": "a"}, "flights.example.com")
    with pytest.raises(ManifestError, match=r"backendRefs\[0\].name: 'A_B-predictor'"):
        route.route(experiment(), {**SERVICES, "control": "A_B"}, "flights.example.com")
    with pytest.raises(ManifestError, match=r"hostnames\[0\]: 'flights_'"):
        route.route(experiment(), SERVICES, "flights_")


def test_without_the_crd_the_check_says_that_it_was_skipped(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        check = route.validate(route.example().document(), folder)
        assert not check.done
        assert "skipped" in check.note


@pytest.mark.skipif(
    CRDS is None or not (CRDS / route.CRD_FILE).exists(),
    reason="AIRWORTHY_CRDS names no folder with the Gateway API's httproutes.yaml",
)
def test_it_satisfies_the_crd_and_a_misspelt_field_does_not() -> None:
    good = route.example().document()
    assert route.validate(good, CRDS).note == "passed: v1"
    good["spec"]["rules"][0]["backendRef"] = good["spec"]["rules"][0].pop("backendRefs")
    with pytest.raises(ManifestError, match="backendRef"):
        route.validate(good, CRDS)
