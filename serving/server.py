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
from pathlib import Path

from feature_repo.errors import AirworthyError, CertificateError, StateError
from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from serving.arguments import without_arguments
from serving.dsse import trust
from serving.loading import load_service
from serving.releases import read_current
from serving.service import Service
from serving.telemetry import configure_logging, log

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
    folder = read_current(home, use_case.name)[0] if args.champion else Path(args.model_dir)
    return load_service(home, use_case, folder, trust=trust(home, args.allow_development_key))


def _check_port(port: int) -> None:
    """Say it at once; the server itself would find out only after its slow imports."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except (OSError, OverflowError) as exc:
            raise StateError(f"port {port} cannot be listened at ({exc}); choose another") from exc


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description=__doc__,
        allow_abbrev=False,  # a manifest's check reads whole words
    )
    parser.add_argument("--use-case", required=True, help="its name in feature_repo/registry.py")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-dir", help="a certified model directory")
    model.add_argument("--champion", action="store_true", help="the champion")
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
