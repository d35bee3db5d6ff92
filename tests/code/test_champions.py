"""Champions follow one another on a real MLflow store; reruns and persons do not undo it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from judging_helpers import fresh_home, judged, state_of, state_release
from registry_helpers import aliases, directory_of, promotions, put_in, revoke, versions
from toy import toy_registered

from feature_repo.errors import CertificateError, PromotionError, TrainingError
from feature_repo.home import Home
from serving import certificate, dsse
from serving.releases import read_current
from tasks.promotion import promote, promote_released, promote_version
from tasks.registry import champion_directory, register


@pytest.fixture(scope="module", autouse=True)
def _toy() -> Iterator[None]:
    with toy_registered():
        yield


def _expire(home: Home, directory: Path) -> None:
    """Sign the same facts again, as of 91 days ago."""
    predicate = certificate.read(directory).predicate
    (directory / "certificate.json").unlink()
    past = datetime.now(timezone.utc) - timedelta(days=91)
    certificate.issue(dsse.signing_key(home), directory, predicate, timedelta(days=90), past)


def test_an_expired_certificate_is_not_promoted_and_a_rerun_renews_it(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    good = judged(home)
    _expire(home, directory_of(home, good))
    put_in(home, good)
    with pytest.raises(PromotionError, match="expired"):
        promote_version(home, "toy", "1.0.0")
    renewed = judged(home).certified
    assert (renewed.subject, renewed.version) == (good.certified.subject, "1.0.0")
    assert renewed.certificate != good.certified.certificate
    assert put_in(home, good) == "1"
    assert versions(home)["1"]["airworthy.certificate"] == renewed.certificate
    assert "is now champion" in promote_version(home, "toy", "1.0.0")


def test_champions_follow_one_another_and_a_rerun_finds_the_predecessor(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    state = state_of(home)
    first = judged(home, slope=0.8)
    assert champion_directory(home, "toy", "") is None
    put_in(home, first)
    promote_version(home, "toy", "1.0.0")
    assert champion_directory(home, "toy", "") == directory_of(home, first)
    second = judged(home, slope=0.75)
    assert second.certified.version == "1.1.0"
    register(state=state, use_case="toy", certified=second.certified, trained=second.trained)
    with pytest.raises(PromotionError, match="never released"):
        promote_version(home, "toy", "1.1.0")
    state_release(home, directory_of(home, second))
    promote_version(home, "toy", "1.1.0")
    again = judged(home, slope=0.75).certified
    assert again.already
    assert again.subject == second.certified.subject
    predicate = certificate.read(directory_of(home, second)).predicate
    assert predicate["predecessor"] == first.certified.subject
    patch = judged(home, slope=0.75, seed=1).certified
    assert patch.version == "1.1.1"


def test_who_comes_back_to_an_earlier_champion_finds_its_version(tmp_path: Path) -> None:
    """The same weights are one version, and the champion that replaced them stays until a person
    says otherwise; once revoked they are not certified again, whatever they are compared with."""
    home = fresh_home(tmp_path / "home")
    state = state_of(home)
    first = judged(home, slope=0.8).certified  # not promoted
    second = judged(home, slope=0.75)
    put_in(home, second)
    promote_released(state=state, use_case="toy", version="1.1.0", passed=True)
    third = judged(home, slope=0.7)
    put_in(home, third)
    assert promote_released(state=state, use_case="toy", version="1.2.0", passed=True).champion
    again = judged(home, slope=0.75)
    assert again.certified == replace(second.certified, already=True)
    assert put_in(home, again) == "1"
    left = promote_released(state=state, use_case="toy", version="1.1.0", passed=True)
    assert not left.champion
    assert "promote_version --model toy --version 1.1.0" in left.step.message
    promote(state=state, use_case="toy", version="1.1.0")
    assert promotions(home) == ["1.1.0", "1.2.0", "1.1.0"]
    assert len(versions(home)) == 2
    for certified, slope in ((first, 0.8), (third.certified, 0.7)):
        revoke(home, certified.certificate)
        with pytest.raises(CertificateError, match=f"{certified.certificate} is revoked .a test"):
            judged(home, slope=slope)
    assert len(list(home.root.glob("models/toy/*/certificate.json"))) == 3


def test_a_rollback_by_hand_is_not_undone_by_a_rerun(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    state = state_of(home)
    for slope, version in ((0.8, "1.0.0"), (0.75, "1.1.0")):
        put_in(home, judged(home, slope=slope))
        promote_released(state=state, use_case="toy", version=version, passed=True)
    promote(state=state, use_case="toy", version="1.0.0")
    left = promote_released(state=state, use_case="toy", version="1.1.0", passed=True)
    assert not left.champion
    assert aliases(home)["champion"] == "1"
    assert promotions(home) == ["1.0.0", "1.1.0", "1.0.0"]
    champion = champion_directory(home, "toy", "")
    assert read_current(home, "toy") == (champion, "1.0.0"), "what is served is the champion"


def test_of_two_runs_at_once_the_slower_one_does_not_promote_unseen(tmp_path: Path) -> None:
    """Both were compared with no champion; the second must be compared with the first."""
    home = fresh_home(tmp_path / "home")
    state = state_of(home)
    first, second = judged(home, slope=0.8), judged(home, slope=0.75)
    assert second.certified.version == "1.1.0"
    for run in (first, second):
        put_in(home, run)
    assert promote_released(state=state, use_case="toy", version="1.0.0", passed=True).champion
    left = promote_released(state=state, use_case="toy", version="1.1.0", passed=True)
    assert not left.champion
    assert "1.1.0 was not compared with toy 1.0.0" in left.step.message
    assert promotions(home) == ["1.0.0"]
    promote(state=state, use_case="toy", version="1.1.0")  # a person may
    assert promotions(home) == ["1.0.0", "1.1.0"]


def test_a_challenger_leaves_the_champion_and_the_first_model_becomes_it(tmp_path: Path) -> None:
    home = fresh_home(tmp_path / "home")
    state = state_of(home)
    for slope, version in ((0.8, "1.0.0"), (0.75, "1.1.0")):
        put_in(home, judged(home, slope=slope))
        made = promote_released(
            state=state, use_case="toy", version=version, passed=True, promotion="in-steps"
        )
    assert not made.champion
    assert "toy 1.1.0 is a challenger" in made.step.message
    with pytest.raises(TrainingError, match="promotion is 'never', but must be one of at-once"):
        promote_released(
            state=state, use_case="toy", version="1.1.0", passed=True, promotion="never"
        )
    assert promotions(home) == ["1.0.0"]
