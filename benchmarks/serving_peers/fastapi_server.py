"""FastAPI with pydantic, on uvicorn and uvloop, without an access log."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving_peers.model import PORT, predictor, scores

app = FastAPI()
model = predictor()


class Instance(BaseModel):
    """One full vector."""

    numeric: list[float | None]
    categorical: list[str]


class Question(BaseModel):
    """A V1 request."""

    instances: list[Instance]


class Answer(BaseModel):
    """A V1 answer."""

    predictions: list[float]


@app.get("/ready")
async def ready() -> bool:
    """Up."""
    return True


@app.post("/v1/models/flights:predict")
async def predict(question: Question) -> Answer:
    """Scores; in the event loop, which costs less than a thread."""
    instances = [one.__dict__ for one in question.instances]
    return Answer(predictions=scores(model, instances))


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, loop="uvloop", http="httptools", access_log=False)
