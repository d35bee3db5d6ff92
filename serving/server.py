"""``python -m serving.server``: a certified model over HTTP, or a refusal that says why.

Exit codes: 0 stopped by SIGTERM or SIGINT, 2 wrong arguments, 3 the certificate forbids it,
4 the home lacks what is needed (feature store, prediction log, model files).
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import AirworthyError, CertificateError, StateError
from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from serving.arguments import without_arguments
from serving.artifact import read_model
from serving.certificate import Cleared, clear
from serving.dsse import trust
from serving.online import OnlineStore
from serving.predictions import PredictionLog
from serving.predictor import Predictor
from serving.releases import read_current
from serving.requests import Instance, columns_of
from serving.service import Service
from serving.telemetry import Telemetry, configure_logging, log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase

EXIT_ARGUMENTS, EXIT_CERTIFICATE, EXIT_STATE = 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, load, warm, serve; the exit code."""
    args = _parser().parse_args(arguments)
    configure_logging()
    try:
        service = prepare(args)
    except CertificateError as exc:
        log("refused to serve", logging.ERROR, code=EXIT_CERTIFICATE, reason=str(exc))
        return EXIT_CERTIFICATE
    except StateError as exc:
        log("cannot serve", logging.ERROR, code=EXIT_STATE, reason=str(exc))
        return EXIT_STATE
    except AirworthyError as exc:
        log("cannot serve", logging.ERROR, code=EXIT_ARGUMENTS, reason=str(exc))
        return EXIT_ARGUMENTS
    with without_arguments():  # late: the import takes seconds, a refusal need not wait for it
        from serving.kserve_model import run

    log("starting", port=args.port, path=f"/v1/models/{service.name}:predict")
    try:
        run(service, args.port)
    except SystemExit:  # uvicorn has logged why it cannot listen; its code 3 is ours for another
        return EXIT_STATE
    finally:
        service.close()
    log("stopped")
    return 0


def prepare(args: argparse.Namespace) -> Service:
    """The service of a model that was verified before anything of it was loaded, and warmed.

    Raises:
        CertificateError: the model may not fly.
        StateError: feature store, prediction log or model files are not as they should be.
        DeclarationError: there is no such use case.
    """
    _check_port(args.port)
    home, use_case = open_home(args.home), get_use_case(args.use_case)
    folder, version = (
        read_current(home, use_case.name) if args.champion else (Path(args.model_dir), "")
    )
    now = datetime.now(timezone.utc)
    cleared = clear(home, folder, trust(home, args.allow_development_key), now)
    _check_use_case(use_case, folder)
    certificate = cleared.certificate
    stated = str(certificate.predicate.get("version") or certificate.subject[:12])
    version = args.model_version or version or stated
    predictor = Predictor(use_case, folder)
    _warm(use_case, predictor, now)
    store = OnlineStore(home.path("online", f"{use_case.name}.db"), use_case)
    telemetry = Telemetry(use_case.name, version)
    telemetry.certified(certificate, cleared.expired)
    _say(cleared, version, store)
    return Service(
        use_case=use_case,
        predictor=predictor,
        store=store,
        prediction_log=PredictionLog(home, use_case.name),
        telemetry=telemetry,
        certificate=certificate,
        version=version,
        threshold=read_model(folder).threshold,
    )


def _check_port(port: int) -> None:
    """Say it at once; the server itself would find out only after its slow imports."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except (OSError, OverflowError) as exc:
            raise StateError(f"port {port} cannot be listened at ({exc}); choose another") from exc


def _check_use_case(use_case: UseCase, folder: Path) -> None:
    """A model answers only for the declaration that it was trained on."""
    model = read_model(folder)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__)
    parser.add_argument("--use-case", required=True, help="its name in feature_repo/registry.py")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-dir", help="a certified model directory")
    model.add_argument("--champion", action="store_true", help="the model that was released last")
    parser.add_argument("--model-version", default="", help="version to name in answers")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--home", default="", help="default: $AIRWORTHY_HOME, else .airworthy")
    parser.add_argument(
        "--allow-development-key",
        action="store_true",
        help="trust this home's development key; never in a cluster",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
