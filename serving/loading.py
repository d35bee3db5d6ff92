"""From a home to a service that may answer: verified before loaded, warmed before asked."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import CertificateError, StateError
from feature_repo.inputs import input_columns
from feature_repo.online_rows import rows_of
from serving.artifact import ModelInfo, read_model
from serving.certificate import Cleared, clear
from serving.online import OnlineStore
from serving.predictor import Predictor
from serving.requests import Instance, columns_of
from serving.segments import PredictionLog
from serving.service import Service
from serving.telemetry import Telemetry, log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.home import Home
    from serving.dsse import Trust


def load_service(
    home: Home,
    use_case: UseCase,
    folder: Path,
    *,
    trust: Trust,
    telemetry: Telemetry | None = None,
) -> Service:
    """The service of the model in ``folder``, under the version that its certificate states.

    Raises:
        CertificateError: the model may not fly.
        StateError: feature store, prediction log or model files are not as they should be.
    """
    now = datetime.now(timezone.utc)
    cleared = clear(home, folder, trust, now)
    certificate = cleared.certificate
    model = read_model(folder, certificate.files)
    _check_use_case(use_case, folder, model)
    version = str(certificate.predicate.get("version") or certificate.subject[:12])
    predictor = Predictor(use_case, folder, certificate.files)
    _warm(use_case, predictor, now)
    store = OnlineStore(rows_of(home, use_case), use_case)
    telemetry = telemetry or Telemetry(use_case.name, version)
    telemetry.certified(certificate, cleared.expired)
    _say(cleared, version, store)
    return Service(
        use_case=use_case,
        predictor=predictor,
        store=store,
        prediction_log=PredictionLog(home, use_case),
        telemetry=telemetry,
        certificate=certificate,
        version=version,
        threshold=model.threshold,
    )


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
