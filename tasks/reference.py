"""What a model must be worth its trouble against: a linear model and a constant, same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.inputs import Array, input_columns, model_inputs
from serving.preprocess import Preprocessor
from tasks.rows import Rows

if TYPE_CHECKING:
    from feature_repo.contract import UseCase

SEED = 0


def linear_scores(use_case: UseCase, training: Rows, test: Rows) -> Array:
    """Test scores float64 [n] of a linear model fitted on the training rows.

    Binary: logistic regression; regression: ridge (scikit-learn 1.9). Numeric inputs are
    standardised, categorical ones one-hot, missing ones flagged.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    inputs = model_inputs(use_case, training.columns)
    preprocessor = Preprocessor.fit(input_columns(use_case), inputs)
    fit_on = _design(preprocessor, inputs)
    score_on = _design(preprocessor, model_inputs(use_case, test.columns))
    if use_case.task == "binary":
        logistic = LogisticRegression(C=1.0, max_iter=60, tol=1e-3)
        logistic.fit(fit_on, training.target > 0.5)
        return np.asarray(logistic.predict_proba(score_on)[:, 1], dtype=np.float64)
    ridge = Ridge(alpha=1.0, solver="lsqr", random_state=SEED)
    ridge.fit(fit_on, training.target)
    return np.asarray(ridge.predict(score_on), dtype=np.float64)


def constant_scores(training: Rows, test: Rows) -> Array:
    """The training rows' base rate (or mean) for every test row: float64 [n]."""
    return np.full(len(test), training.target.mean())


def _design(preprocessor: Preprocessor, inputs: dict[str, Array]) -> Any:
    """Sparse design matrix float32 [n, numeric + sum of cardinalities].

    Every row has the same number of entries, so the matrix is written down directly.
    """
    from scipy import sparse

    numeric, categorical = preprocessor.transform(inputs)
    rows, width = numeric.shape
    sizes = np.array(preprocessor.shape.cardinalities, dtype=np.int64)
    starts = width + np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)[: len(sizes)]
    places = np.broadcast_to(np.arange(width), (rows, width))
    indices = np.concatenate([places, categorical + starts], axis=1).astype(np.int32)
    data = np.concatenate([numeric, np.ones_like(categorical, dtype=np.float32)], axis=1)
    ends = np.arange(rows + 1, dtype=np.int64) * data.shape[1]
    shape = (rows, width + int(sizes.sum()))
    return sparse.csr_matrix((data.ravel(), indices.ravel(), ends), shape=shape)
