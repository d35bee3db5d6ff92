"""A plain KServe model. ``$BENCH_QUIET``: without the lines that it logs of each request."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.serving_peers.model import PORT, QUIET, predictor, scores


class Flights(Model):
    """V1 and V2, JSON and binary."""

    def __init__(self) -> None:
        super().__init__("flights")
        self.predictor = predictor()
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Scores of a V1 or a V2 request."""
        if not isinstance(payload, InferRequest):
            return {"predictions": scores(self.predictor, payload["instances"])}
        tensors = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        words = tensors["categorical"]
        if words.size and isinstance(words.flat[0], bytes):
            words = np.char.decode(words.astype(np.bytes_))
        found = self.predictor.predict_vectors(
            tensors["numeric"].astype(np.float64), words.T.tolist()
        )
        binary = payload.use_binary_outputs
        output = InferOutput("probability", [len(found.scores)], "FP64")
        output.set_data_from_numpy(found.scores, binary_data=binary)
        return InferResponse(payload.id or "", self.name, [output], use_binary_outputs=binary)


if __name__ == "__main__":
    server = ModelServer(
        http_port=PORT, enable_grpc=False, workers=1, enable_latency_logging=not QUIET
    )
    if QUIET:
        for name in ("kserve", "kserve.trace", "uvicorn.access"):
            logging.getLogger(name).setLevel(logging.WARNING)
    server.start([Flights()])
