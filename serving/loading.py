"""From a home to a service that may answer: verified before loaded, warmed before asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import AirworthyError, CertificateError, StateError
from feature_repo.fallback import fallback_reasons, request_only
from feature_repo.inputs import input_columns
from feature_repo.online_rows import rows_of
from serving.artifact import FALLBACK, ModelInfo, fallback_files, read_model
from serving.certificate import Cleared, clear, read
from serving.copied_rows import CopiedRows
from serving.instances import Instance, columns_of
from serving.metrics import SCORES, VALUES, Metrics
from serving.online import OnlineStore
from serving.predictor import Predictor, fallback_predictor
from serving.service import Service
from serving.telemetry import log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.home import Home
    from feature_repo.online_rows import RowReader
    from serving.answered import Role
    from serving.dsse import Trust
    from serving.recorder import Recorder


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Loads models of one server: verified, then warmed.

    ``recorders`` gives the recorder of a use case's answers; without it they are the caller's to
    record. ``copy_seconds``: how often a copy of the online store is renewed; 0: none is kept,
    each request asks the store.
    """

    home: Home
    trust: Trust
    metrics: Metrics
    recorders: Callable[[UseCase], Recorder] | None = None
    durable: bool = True
    copy_seconds: float = 0.0
    role: Role = "champion"

    def load(self, use_case: UseCase, folder: Path) -> Service:
        """The service of the model in ``folder``, under the version that its certificate states.

        Raises:
            CertificateError: the model may not fly.
            StateError: feature store, prediction log or model files are not as they should be.
        """
        now = datetime.now(timezone.utc)
        cleared = clear(self.home, folder, self.trust, now)
        certificate = cleared.certificate
        model = read_model(folder, certificate.files)
        _check_use_case(use_case, folder, model)
        predictor = Predictor(use_case, folder, certificate.files)
        _warm(use_case, predictor, now)
        fallback = _fallback(use_case, folder, certificate.files, now)
        version = str(certificate.predicate.get("version") or certificate.subject[:12])
        rows = self._rows(use_case)
        try:
            store = OnlineStore(rows, use_case)
            recorder = self.recorders(use_case) if self.recorders else None
            _say(cleared, version, store)
        except AirworthyError:
            rows.close()  # else a copy would be renewed for ever
            raise
        if recorder is not None:
            self.metrics.recorded[use_case.name] = lambda: asdict(recorder.counts)
        metrics = self.metrics.model(
            use_case.name, version, [v.name for v in use_case.views], _score_buckets(use_case)
        )
        metrics.certified(certificate, cleared.expired)
        return Service(
            use_case=use_case, predictor=predictor, store=store, recorder=recorder,
            metrics=metrics, certificate=certificate, version=version, threshold=model.threshold,
            fallback=fallback, durable=self.durable, role=self.role,
        )  # fmt: skip

    def _rows(self, use_case: UseCase) -> RowReader:
        rows = rows_of(self.home, use_case)
        return CopiedRows(rows, self.copy_seconds) if self.copy_seconds else rows


def load_service(home: Home, use_case: UseCase, folder: Path, *, trust: Trust) -> Service:
    """A service whose answers the caller records, and whose metrics nobody reads; see ``Loader``
    for errors."""
    return Loader(home=home, trust=trust, metrics=Metrics(None)).load(use_case, folder)


def version_folder(home: Home, use_case: UseCase, version: str) -> Path:
    """The directory of the certified model of a version.

    Raises:
        StateError: there is none.
    """
    for folder in sorted((home.root / "models" / use_case.name).glob("*")):
        try:
            certificate = read(folder)
        except CertificateError:
            continue
        if certificate.predicate.get("version") == version:
            return folder
    raise StateError(
        f"no certified model of {use_case.name!r} has version {version!r} in {home.root}"
    )


def _score_buckets(use_case: UseCase) -> Sequence[float]:
    """Bounds of the score histogram: twentieths of a probability, or of the label's own scale."""
    return SCORES if use_case.task == "binary" else VALUES


def _check_use_case(use_case: UseCase, folder: Path, model: ModelInfo) -> None:
    """A model answers only for the declaration that it was trained on."""
    if model.use_case != use_case.name:
        raise CertificateError(
            f"{folder} holds a model of {model.use_case!r}, not of {use_case.name!r}; name "
            "another directory or another use case"
        )
    if model.declaration != use_case.declaration:
        raise CertificateError(
            f"{folder}: the model was trained on feature declaration {model.declaration[:12]}, "
            f"this program declares {use_case.declaration[:12]}; train it again, or serve it with "
            "the version of the program that trained it"
        )
    for what, trained, declared in _read_by(model, use_case):
        if trained != declared:
            raise CertificateError(
                f"{folder}: the model was trained with {what} {trained}, this program declares "
                f"{declared}; train it again, or serve it with the program that trained it"
            )


def _fallback(
    use_case: UseCase, folder: Path, files: Mapping[str, str], now: datetime
) -> Predictor | None:
    """The model that answers from the request alone, warm; None where none is declared."""
    if not fallback_reasons(use_case):
        return None
    alone, within = request_only(use_case), folder / FALLBACK
    _check_use_case(alone, within, read_model(within, fallback_files(files)))
    predictor = fallback_predictor(use_case, folder, files)
    _warm(alone, predictor, now)
    return predictor


def _read_by(model: ModelInfo, use_case: UseCase) -> list[tuple[str, object, object]]:
    """What a model reads, as it was trained and as the use case has it."""
    inputs = input_columns(use_case)
    return [
        ("numeric inputs", model.numeric, inputs.numeric),
        ("categorical inputs", model.categorical, inputs.categorical),
        ("a tick in seconds of", model.tick_seconds, int(use_case.tick.total_seconds())),
        ("a lag in seconds of", model.lag_seconds, int(use_case.lag.total_seconds())),
    ]


def _warm(use_case: UseCase, predictor: Predictor, now: datetime) -> None:
    """One forward pass, so that the first caller does not pay for the first one."""
    fields: dict[str, Any] = {f.name: "" for f in use_case.fields}
    fields |= {f.name: np.clip(0, *f.bounds) for f in use_case.fields if f.dtype == "number"}
    fields |= {f.name: now for f in use_case.fields if f.dtype == "timestamp"}
    instance = Instance(fields=fields, prediction_time=now)
    columns = columns_of(use_case, [instance])
    columns |= {spec.name: np.array([np.nan]) for spec in use_case.features}
    columns["tick"] = columns["prediction_time"]
    try:
        predictor.predict(columns)
    except Exception as exc:  # onnxruntime's errors share no public root
        raise StateError(
            f"the model does not answer a first, empty question ({exc!r}); export it again"
        ) from exc


def _say(cleared: Cleared, version: str, store: OnlineStore) -> None:
    certificate = cleared.certificate
    facts = {
        "certificate": certificate.id,
        "subject": certificate.subject,
        "version": version,
        "keyid": certificate.predicate["signer"]["keyid"],
        "tick": store.tick.isoformat(),
    }
    log("model cleared", **facts)
    if certificate.development:
        log("signed by a development key: for trials only", logging.WARNING, **facts)
    if cleared.expired:
        expires = certificate.expires_at.isoformat()
        log("certificate expired", logging.WARNING, expired_at=expires, **facts)
