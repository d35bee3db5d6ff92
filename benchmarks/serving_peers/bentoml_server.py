"""BentoML with one worker, without an access log."""

from __future__ import annotations

import bentoml
from pydantic import BaseModel

from benchmarks.serving_peers.model import predictor, scores


class Instance(BaseModel):
    """One full vector."""

    numeric: list[float | None]
    categorical: list[str]


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Flights:
    """V1 in, a list of scores out."""

    def __init__(self) -> None:
        self.predictor = predictor()

    @bentoml.api
    async def predict(self, instances: list[Instance]) -> list[float]:
        """Scores; in the event loop, which costs less than a thread."""
        return scores(self.predictor, [one.__dict__ for one in instances])
