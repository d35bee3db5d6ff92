"""MLServer with a runtime of its own, in its own process: its parallel workers cost more."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.serving_peers.model import PORT, predictor


class Flights(MLModel):
    """V2 only: that is its protocol."""

    async def load(self) -> bool:
        """The model."""
        self.predictor = predictor()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Scores of two tensors."""
        tensors = {tensor.name: tensor for tensor in payload.inputs}
        numeric = NumpyCodec.decode_input(tensors["numeric"]).astype(np.float64)
        words = StringCodec.decode_input(tensors["categorical"])
        count = len(words) // len(numeric)
        found = self.predictor.predict_vectors(numeric, [words[i::count] for i in range(count)])
        output = ResponseOutput(
            name="probability", shape=[len(numeric)], datatype="FP64", data=found.scores.tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[output])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _serve() -> None:
    settings = Settings(
        debug=False, host="127.0.0.1", http_port=PORT, grpc_port=_free_port(),
        metrics_port=_free_port(), parallel_workers=0,
    )  # fmt: skip
    server = MLServer(settings)
    await server.start([ModelSettings(name="flights", implementation=Flights)])


if __name__ == "__main__":
    asyncio.run(_serve())
