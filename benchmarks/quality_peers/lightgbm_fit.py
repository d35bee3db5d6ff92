"""LightGBM on arrays, in its own environment: one fit a job, early stopping on October.

    python lightgbm_fit.py ARRAYS.npz JOBS.json OUT.npz

A job holds LightGBM's parameters. Raw scores (log-odds) of job i: ``validation_i``, ``test_i``.
"""

import json
import sys
import time
from pathlib import Path

import lightgbm
import numpy as np

ROUNDS, PATIENCE = 4000, 100
FIXED = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "bagging_freq": 1}


def main(arrays: str, jobs: str, out: str) -> None:
    """Fit each job in turn; prints one line each."""
    columns = np.load(arrays)
    categorical = columns["categorical"].tolist()
    scores = {}
    for number, job in enumerate(json.loads(Path(jobs).read_text())):
        began = time.monotonic()
        training = lightgbm.Dataset(
            columns["training_x"], columns["training_y"], categorical_feature=categorical
        )
        validation = training.create_valid(columns["validation_x"], columns["validation_y"])
        model = lightgbm.train(
            FIXED | job, training, num_boost_round=ROUNDS, valid_sets=[validation],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )  # fmt: skip
        for part in ("validation", "test"):
            scores[f"{part}_{number}"] = model.predict(columns[f"{part}_x"], raw_score=True)
        took, best = time.monotonic() - began, model.best_score["valid_0"]["binary_logloss"]
        print(
            f"LightGBM {number}: {model.best_iteration} trees, {took:.0f} s, {best:.5f}", flush=True
        )
    np.savez(out, **scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
