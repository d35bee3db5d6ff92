"""Scores in the answers of each contender."""

from __future__ import annotations

import json

import numpy as np

Headers = dict[str, str]


def probabilities(body: bytes, headers: Headers) -> list[float]:
    """Of our V1 answer."""
    return [one["probability"] for one in json.loads(body)["predictions"]]


def predictions(body: bytes, headers: Headers) -> list[float]:
    """Of KServe's V1 answer."""
    return json.loads(body)["predictions"]


def plain_list(body: bytes, headers: Headers) -> list[float]:
    """Of BentoML's answer."""
    return json.loads(body)


def tensor(body: bytes, headers: Headers) -> list[float]:
    """Of a V2 answer in JSON."""
    outputs = {output["name"]: output for output in json.loads(body)["outputs"]}
    return outputs["probability"]["data"]


def binary_tensor(body: bytes, headers: Headers) -> list[float]:
    """Of a V2 answer with binary data, in which the probabilities come first."""
    length = int(headers["inference-header-content-length"])
    output = json.loads(body[:length])["outputs"][0]
    assert output["name"] == "probability"
    size = output["parameters"]["binary_data_size"]
    return np.frombuffer(body[length : length + size], "<f8").tolist()
