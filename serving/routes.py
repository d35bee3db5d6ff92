"""Where the server may be asked, and by which method."""

from __future__ import annotations

import re

PREDICT = re.compile(r"/v1/models/([^/:]+):predict")
INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
REPOSITORY = re.compile(r"/v2/repository/models/([^/]+)/(load|unload)")
INDEX = "/v2/repository/index"
MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready)?")
MODEL_V1 = re.compile(r"/v1/models/([^/:]+)")
READY, OPENAPI = "/v2/health/ready", "/openapi.json"
# What KServe's application answers; nothing else reaches it.
KSERVE = frozenset({"/", "/metrics", "/v1/models", "/v2", "/v2/health/live", "/v2/models"})
GET, POST = "GET, HEAD", "POST"


def allowed(path: str) -> str:
    """Methods that are answered at a path; empty where there is nothing."""
    if path == INDEX or any(p.fullmatch(path) for p in (PREDICT, INFER, REPOSITORY)):
        return POST
    known = path in KSERVE or path in (READY, OPENAPI)
    return GET if known or MODEL.fullmatch(path) or MODEL_V1.fullmatch(path) else ""
