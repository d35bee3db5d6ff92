"""LitServe with one worker, without an access log."""

from __future__ import annotations

from typing import Any

import litserve

from benchmarks.serving_peers.model import PORT, predictor, scores


class Flights(litserve.LitAPI):
    """V1 in, V1 out."""

    def setup(self, device: str) -> None:
        """The model."""
        self.predictor = predictor()

    def decode_request(self, request):  # a type here would be taken for a schema
        """Instances."""
        return request["instances"]

    def predict(self, instances: list[dict[str, Any]]) -> list[float]:
        """Scores."""
        return scores(self.predictor, instances)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        """V1."""
        return {"predictions": output}


if __name__ == "__main__":
    server = litserve.LitServer(Flights(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=PORT, log_level="warning", access_log=False,
        generate_client_file=False,
    )  # fmt: skip
