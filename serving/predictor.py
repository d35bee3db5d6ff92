"""From request columns to predictions: the one path that server, evaluation and scoring share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime

from feature_repo.errors import CertificateError, StateError
from feature_repo.fallback import request_only
from feature_repo.inputs import InputMaker, Inputs, stored_columns, tick_seconds
from serving.artifact import FALLBACK, MODEL, PREPROCESS, fallback_files, read_file
from serving.preprocess import Preprocessor

if TYPE_CHECKING:
    from feature_repo.contract import Column, UseCase

_CHUNK = 8192


class Scored(NamedTuple):
    """Predictions float64 [n], and the codes int64 [n, categorical] of the categorical inputs:
    ``UNKNOWN`` where the training part never held the value."""

    scores: Column
    codes: Column


class Predictor:
    """ONNX graph and preprocessing of one model directory (whose certificate others checked).

    ``files`` are the digests of its certificate: each file is read once, and only if it is that.

    Raises:
        StateError: a file is missing, or is no graph or preprocessing.
        CertificateError: a file was changed since the certificate was checked.
    """

    def __init__(
        self, use_case: UseCase, model_dir: Path, files: Mapping[str, str] | None = None
    ) -> None:
        self.use_case = use_case
        try:
            text = read_file(model_dir, PREPROCESS, files).decode()
            self._preprocessor = Preprocessor.from_json(text)
            self._session = _session(read_file(model_dir, MODEL, files))
        except CertificateError:
            raise
        except Exception as exc:  # onnxruntime raises classes of its own, without a public root
            raise StateError(
                f"the model in {model_dir} cannot be loaded ({exc}); export it again"
            ) from exc
        self._maker = InputMaker(use_case)
        self._names = {i.name for i in self._session.get_inputs()}

    @property
    def inputs(self) -> Inputs:
        """Names of the model's inputs, in the order of its vectors."""
        return self._maker.names

    def predict(self, columns: Mapping[str, Column]) -> Column:
        """Predictions float64 [n] from columns [n]: request fields, stored features, ``tick``.

        Timestamps are ``datetime64[s]`` in UTC; a missing feature is NaN. A probability is
        calibrated; a regression is in the label's unit.
        """
        stored = stored_columns(self.use_case, columns)
        return self.predict_stored(columns, stored, tick_seconds(columns)).scores

    def predict_stored(self, columns: Mapping[str, Column], stored: Column, tick: Column) -> Scored:
        """Predictions from request fields [n], stored features float64 [n, features] in declared
        order and the tick in seconds since the epoch, [n] or [1]."""
        numeric = self._maker.numeric(columns, stored, tick)
        texts = [values.tolist() for values in self._maker.categorical(columns)]
        return self.predict_vectors(numeric, texts)

    def predict_vectors(self, numeric: Column, texts: Sequence[Sequence[str]]) -> Scored:
        """Predictions from the model's inputs themselves: float64 [n, numeric], NaN where missing,
        and the values [n] of each categorical input, in the order of ``inputs``."""
        codes = self._preprocessor.codes(texts, len(numeric))
        if 0 < len(numeric) <= _CHUNK:
            return Scored(self._forward(self._preprocessor.scores(numeric), codes), codes)
        parts = [
            self._forward(self._preprocessor.scores(numeric[i : i + _CHUNK]), codes[i : i + _CHUNK])
            for i in range(0, len(numeric), _CHUNK)
        ]
        return Scored(np.concatenate(parts) if parts else np.empty(0), codes)

    def _forward(self, numeric: Column, categorical: Column) -> Column:
        feed = {"numeric": numeric, "categorical": categorical}
        (answer,) = self._session.run(
            ["prediction"], {n: feed[n] for n in feed if n in self._names}
        )
        return np.asarray(answer, dtype=np.float64).reshape(-1)


def split(
    predictor: Predictor, fallback: Predictor, columns: Mapping[str, Column], stored: Column,
    tick: Column, fallen: Column,
) -> Scored:  # fmt: skip
    """Predictions of the fallback where ``fallen`` [n] says so, of the model elsewhere; see
    ``Predictor.predict_stored``."""
    count = len(fallen)
    scores = np.empty(count)
    codes: Column = np.empty((count, len(predictor.inputs.categorical)), np.int64)
    for one, chosen in ((fallback, fallen), (predictor, ~fallen)):
        if chosen.any():
            asked = {name: values[chosen] for name, values in columns.items()}
            read = stored[chosen, : len(one.use_case.features)]
            scores[chosen], codes[chosen] = one.predict_stored(asked, read, tick)
    return Scored(scores, codes)


def fallback_predictor(
    use_case: UseCase, model_dir: Path, files: Mapping[str, str] | None = None
) -> Predictor:
    """The fallback within a model directory: see ``Predictor``. It reads the request alone."""
    alone = None if files is None else fallback_files(files)
    return Predictor(request_only(use_case), model_dir / FALLBACK, alone)


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    """One thread, in order: a small graph gains nothing from more, and a pod counts its CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
