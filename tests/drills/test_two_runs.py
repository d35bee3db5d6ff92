"""Two pipelines at the same time on one home."""

from __future__ import annotations

import re

from pipeline import Twins, check_sound, registered, told


def test_both_runs_end_well(twins: Twins) -> None:
    """Neither run waits in vain, fails on the other's files, or reads half of them."""
    for done in twins.done:
        assert done.code == 0, done.said
    check_sound(twins.left)


def test_the_launcher_that_was_asked_for_trained(twins: Twins) -> None:
    """The workflow's conditional: one process, and two ranks that speak with one voice."""
    for done, ranks in zip(twins.done, ("1", "2"), strict=True):
        assert re.findall(r"^\[train\] .* ranks: (\d)", done.said, re.MULTILINE) == [ranks]
        assert done.said.count("[train] done in ") == 1


def test_each_run_has_a_version_of_its_own(twins: Twins) -> None:
    """Two seeds, two models, two versions, two executions; one home identity."""
    certified = [entry["facts"] for entry in told(twins.left, "certificate")]
    versions = [facts["version"] for facts in certified]
    assert sorted(versions)[0] == "1.0.0"
    assert len(set(versions)) == len(versions) == 2
    assert len({facts["certificate"] for facts in certified}) == 2
    assert len(told(twins.left, "execution")) == 2
    assert sorted(tags["airworthy.version"] for tags in registered(twins.left)) == sorted(versions)


def test_the_champion_is_one_of_them_and_passed(twins: Twins) -> None:
    """The last promotion is of a model that the gate let pass."""
    passed = {
        entry["facts"]["version"]
        for entry in told(twins.left, "certificate")
        if entry["facts"]["passed"]
    }
    promotions = [entry["facts"]["version"] for entry in told(twins.left, "promotion")]
    assert promotions
    assert set(promotions) <= passed


def test_neither_took_a_result_of_another_home(twins: Twins) -> None:
    """The Flyte cache that both homes share held the same steps, for another home."""
    for entry in told(twins.left, "execution"):
        assert not any(step["cached"] for step in entry["facts"]["steps"])
