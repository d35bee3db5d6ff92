"""kill -9 of a whole pipeline, at several moments; each time it is simply run again."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pipeline import Place, Twins, check_sound, damaged, flight, kill_group, registered, told

from feature_repo.packed import STATE

SHORT_FORM = ("[release] online",)
LONG_FORM = (
    "[ingest] started", "[train] epoch 1", "[certify] started", "[release] online",
    "[promote] started",
)  # fmt: skip


def killed_at(place: Place, moment: str) -> bool:
    """Run the pipeline until it prints ``moment``, then kill it; False when it never did."""
    process = place.start("weather:weather", *flight())
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            kill_group(process)
            return True
    process.wait()
    return False


def drill(place: Place, moments: tuple[str, ...]) -> None:
    """Kill at each moment, in the order of the steps, on one home; then let it end."""
    for moment in moments:
        assert killed_at(place, moment), f"the pipeline never printed {moment!r}"
        readable_now(place)
    done = place.fly()
    assert done.code == 0, done.said
    check_sound(place.home)
    assert place.summary["model"]["version"] == "1.0.0"
    assert place.summary["gate"]["passed"]
    assert len(registered(place.home)) == 1
    assert len(told(place.home, "certificate")) == 1
    assert len(told(place.home, "execution")) == 1
    again = place.run(
        "audit:audit", "--prediction_id", place.summary["prediction_id"], "--model", "weather"
    )
    assert again.code == 0, again.said


def readable_now(place: Place) -> None:
    """What readers see between the kill and the next run is whole: objects, ledger, store."""
    home = place.home
    assert damaged(home) == []
    if (home.root / "ledger").exists():
        told(home, "execution")
    for path in home.root.glob("online/[!.]*.db"):
        with closing(sqlite3.connect(path)) as store:
            assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert store.execute(
                "SELECT count(*) FROM rows WHERE key = ?", (STATE,)
            ).fetchone() == (1,)


@pytest.mark.timeout(1800)
def test_killed_then_well(twins: Twins) -> None:
    """Between the certificate and the registry; in the place of a deleted home, whose results the
    Flyte cache still names."""
    shutil.rmtree(twins.place.root)
    drill(twins.place, SHORT_FORM)


if os.environ.get("AIRWORTHY_LONG_DRILLS"):

    @pytest.mark.timeout(1800)
    def test_killed_at_every_stage(tmp_path: Path) -> None:
        """The long form: five moments from ingestion to release."""
        drill(Place(tmp_path / "home", tmp_path / "user", cache=True), LONG_FORM)
