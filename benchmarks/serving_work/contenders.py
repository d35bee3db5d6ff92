"""Who is measured: how each server is started, and in which ways it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving_work.answers import (
    binary_tensor,
    plain_list,
    predictions,
    probabilities,
    tensor,
)

V1, V2 = "/v1/models/flights:predict", "/v2/models/flights/infer"


@dataclass(frozen=True, kw_only=True)
class Server:
    """How a server is started; ``environment`` is that of a peer, or the project's own."""

    environment: str
    command: Sequence[str]
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server asked in one way; ``scores`` reads its answer."""

    server: str
    kind: str
    path: str
    scores: Callable[[bytes, dict[str, str]], list[float]]


SERVERS = {
    "ours": Server(environment="", command=("-m", "serving.server")),
    "kserve": Server(
        environment="kserve", command=("-m", "benchmarks.serving_peers.kserve_server")
    ),
    "kserve quiet": Server(
        environment="kserve", command=("-m", "benchmarks.serving_peers.kserve_server"),
        more=(("BENCH_QUIET", "1"),),
    ),
    "FastAPI": Server(
        environment="fastapi", command=("-m", "benchmarks.serving_peers.fastapi_server")
    ),
    "MLServer": Server(
        environment="mlserver", command=("-m", "benchmarks.serving_peers.mlserver_server")
    ),
    "LitServe": Server(
        environment="litserve", command=("-m", "benchmarks.serving_peers.litserve_server")
    ),
    "BentoML": Server(
        environment="bentoml",
        command=("-m", "bentoml", "serve", "benchmarks.serving_peers.bentoml_server:Flights"),
        more=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
}  # fmt: skip
CONTENDERS = {
    "ours V1": Contender(server="ours", kind="v1", path=V1, scores=probabilities),
    "ours V2 binary": Contender(server="ours", kind="v2", path=V2, scores=binary_tensor),
    "kserve V1": Contender(server="kserve", kind="v1", path=V1, scores=predictions),
    "kserve V1, no logs": Contender(
        server="kserve quiet", kind="v1", path=V1, scores=predictions
    ),
    "kserve V2 binary": Contender(server="kserve", kind="v2", path=V2, scores=binary_tensor),
    "FastAPI": Contender(server="FastAPI", kind="v1", path=V1, scores=predictions),
    "MLServer": Contender(server="MLServer", kind="v2json", path=V2, scores=tensor),
    "LitServe": Contender(server="LitServe", kind="v1", path="/predict", scores=predictions),
    "BentoML": Contender(server="BentoML", kind="v1", path="/predict", scores=plain_list),
}  # fmt: skip
