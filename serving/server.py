"""``python -m serving.server``: certified models over HTTP and gRPC, or a refusal that says why.

Exit codes: 0 stopped by SIGTERM or SIGINT, 2 wrong arguments, 3 the certificate forbids it,
4 the home lacks what is needed (feature store, prediction log, model files).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import AirworthyError, CertificateError, DeclarationError, StateError
from feature_repo.home import Home, open_home, prediction_tokens, repository_token
from feature_repo.registry import get_use_case
from serving.arguments import without_arguments
from serving.dsse import trust
from serving.enrolment import Enrolment
from serving.gateway import Gateway, Limits, Tokens
from serving.loading import Loader, version_folder
from serving.metrics import Metrics
from serving.models import Models
from serving.recorder import Recorder
from serving.releases import read_current
from serving.segments import PredictionLog
from serving.telemetry import configure_logging, log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from serving.service import Service
    from serving.traces import Traces

EXIT_ARGUMENTS, EXIT_CERTIFICATE, EXIT_STATE = 2, 3, 4
DURABLE = "durable"
_CLOSE_SECONDS = 5.0  # after which no answer of a model that was replaced can be under way


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, load, warm, serve; the exit code."""
    args = _parser().parse_args(arguments)
    configure_logging()
    try:
        server = Server(args)
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

    log("starting", port=args.port, models=server.models.names)
    try:
        run(server.gateway, args.port, args.grpc_port, args.drain_seconds)
    except SystemExit:  # uvicorn has logged why it cannot listen; its code 3 is ours for another
        return EXIT_STATE
    finally:
        server.close()
    log("stopped")
    return 0


class Server:
    """The models of one process, all verified before anything of them was loaded, and warmed.

    Raises:
        CertificateError: a model may not fly.
        StateError: feature store, prediction log or model files are not as they should be.
        DeclarationError: there is no such use case, or the arguments do not go together.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        use_cases = [get_use_case(name) for name in args.use_case]
        if args.model_dir and len(use_cases) > 1:
            raise DeclarationError("--model-dir names the model of one use case; name one")
        if args.experiment and len(use_cases) > 1:
            raise DeclarationError("--experiment compares versions of one use case; name one")
        for port in filter(None, (args.port, args.grpc_port)):
            _check_port(port)
        home = open_home(args.home)
        metrics = Metrics()
        self._share = None if args.record == DURABLE else args.record
        self._home = home
        self._recorders: dict[str, Recorder] = {}
        self._lock = threading.Lock()
        self._loader = Loader(
            home=home, trust=trust(home, args.allow_development_key), metrics=metrics,
            recorders=self._recorder, durable=args.record == DURABLE,
            copy_seconds=args.copy_store, role=args.role,
        )  # fmt: skip
        self.models = Models(self._load)
        self._enrolment: Enrolment | None = None
        self._traces = _traces(args.trace_share)
        try:
            if args.experiment:
                self._enrolment = Enrolment(home, use_cases[0], args.experiment)
                metrics.enrolled[args.experiment] = self._enrolment.counts
            for use_case in use_cases:
                self.models.put(self._first(args, use_case), default=True)
        except AirworthyError:
            self.close()
            raise
        tokens = Tokens(predictions=prediction_tokens(), repository=repository_token())
        limits = Limits(
            concurrent=args.concurrency, caller=args.caller_concurrency, said=args.log_share
        )
        self.gateway = Gateway(
            self.models, metrics, limits, tokens, self._change, self._enrolment,
            self._traces,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the stores, and write what waits to be recorded."""
        self.models.close()
        for recorder in self._recorders.values():
            recorder.close()
        if self._enrolment is not None:
            self._enrolment.close()
        if self._traces is not None:
            self._traces.close()

    def _first(self, args: argparse.Namespace, use_case: UseCase) -> Service:
        folder = Path(args.model_dir) if args.model_dir else _champion(self._home, use_case)
        return self._loader.load(use_case, folder)

    def _load(self, name: str, version: str) -> Service:
        use_case = get_use_case(name)
        folder = (
            version_folder(self._home, use_case, version)
            if version
            else _champion(self._home, use_case)
        )
        return self._loader.load(use_case, folder)

    async def _change(self, action: str, name: str, version: str) -> None:
        """Load or unload; what was replaced is closed once no answer of it can be under way."""
        if action == "load":
            # Verified and warmed in a thread: requests are answered meanwhile.
            service = await asyncio.to_thread(self._load, name, version)
            gone = self.models.put(service, default=not version)
            up = service.metrics
        else:
            gone, up = self.models.remove(name, version), None
        loop = asyncio.get_running_loop()
        for service in gone:
            if service.metrics is not up:
                service.metrics.grounded()
            # In a thread too: a copy of the store ends only once it is not being renewed.
            loop.call_later(_CLOSE_SECONDS, loop.run_in_executor, None, service.close)

    def _recorder(self, use_case: UseCase) -> Recorder:
        """One for all versions of a use case."""
        with self._lock:  # two loads may ask at once, each in a thread of its own
            if use_case.name not in self._recorders:
                share = 1.0 if self._share is None else self._share
                prediction_log = PredictionLog(self._home, use_case, share=share)
                self._recorders[use_case.name] = Recorder(prediction_log)
            return self._recorders[use_case.name]


def _traces(share: float) -> Traces | None:
    """Spans, where a share of them is asked for: OpenTelemetry takes its time to import."""
    if not share:
        return None
    from serving.traces import Traces

    return Traces(share)


def _champion(home: Home, use_case: UseCase) -> Path:
    return read_current(home, use_case.name)[0]


def _check_port(port: int) -> None:
    """Say it at once; the server itself would find out only after its slow imports."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except (OSError, OverflowError) as exc:
            raise StateError(f"port {port} cannot be listened at ({exc}); choose another") from exc


def _share(text: str) -> str | float:
    return text if text == DURABLE else _part(text)


def _part(text: str) -> float:
    return _number(text, 0.0, 1.0, "a share of 0 to 1")


def _seconds(text: str) -> float:
    return _number(text, 0.0, 86_400.0, "a number of seconds, from 0 to a day")


def _number(text: str, low: float, high: float, what: str) -> float:
    """argparse prints the message of this one error, and of a ValueError our function's name."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description=__doc__,
        allow_abbrev=False,  # a manifest's check reads whole words
    )
    parser.add_argument(
        "--use-case", required=True, action="append",
        help="its name in feature_repo/registry.py; may be given several times",
    )  # fmt: skip
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-dir", help="a certified model directory")
    model.add_argument("--champion", action="store_true", help="the champion")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=0, help="default: no gRPC")
    parser.add_argument("--home", default="", help="default: $AIRWORTHY_HOME, else .airworthy")
    parser.add_argument(
        "--record", type=_share, default=DURABLE, metavar="durable|SHARE",
        help="durable (default): an answer leaves once its record is on disk; a share of 0 to 1: "
        "that part of the requests is recorded after the answer, and what is lost is counted",
    )  # fmt: skip
    parser.add_argument(
        "--copy-store", type=_seconds, default=0.0, metavar="SECONDS",
        help="keep a copy of the online store, renewed so often; its age is in each answer",
    )  # fmt: skip
    parser.add_argument(
        "--role", choices=("champion", "canary", "shadow"), default="champion",
        help="as what the answers are recorded",
    )  # fmt: skip
    parser.add_argument(
        "--experiment", default="", metavar="NAME",
        help="a begun one: requests with the header x-airworthy-arm are answered by their unit's "
        "arm, and first exposures recorded",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=_count(1), default=Limits().concurrent, metavar="N",
        help="requests at a time, then 503 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--caller-concurrency", type=_count(0), default=Limits().caller, metavar="N",
        help="requests of one caller at a time, then 429 (default: any); a caller is its token, "
        "where it has one of several, else its address: behind a proxy, give each caller a token",
    )  # fmt: skip
    parser.add_argument(
        "--log-share", type=_part, default=0.0, metavar="SHARE",
        help="of the answers, 0 to 1, that a line is logged of (default: none); errors always are",
    )  # fmt: skip
    parser.add_argument(
        "--trace-share", type=_part, default=0.0, metavar="SHARE",
        help="of the requests, 0 to 1, whose OpenTelemetry spans leave by OTLP over HTTP to "
        "$OTEL_EXPORTER_OTLP_ENDPOINT; a caller's traceparent decides for its own",
    )  # fmt: skip
    parser.add_argument(
        "--drain-seconds", type=_seconds, default=0.0, metavar="SECONDS",
        help="after SIGTERM, in which it answers on and says that it is not ready (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-development-key",
        action="store_true",
        help="trust this home's development key; never in a cluster",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
