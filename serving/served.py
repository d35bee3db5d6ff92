"""What a server says of itself at ``/metrics``: the model that it flies, and its answers."""

from __future__ import annotations

import math
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from feature_repo.errors import StateError
from serving.rollout_plan import Traffic


def check_subject(address: str, subject: str) -> None:
    """Hold what the server at ``address`` (http://host:port) says that it flies under against the
    model that is meant.

    Raises:
        StateError: it serves another one, or does not answer.
    """
    served = {
        sample.labels["subject"]
        for family in text_string_to_metric_families(_metrics(address))
        for sample in family.samples
        if sample.name == "airworthy_certificate_info"
    }
    if served != {subject}:
        raise StateError(
            f"the server at {address} serves {', '.join(sorted(served)) or 'nothing'}, not the "
            f"subject {subject}: something else answers there; begin again"
        )


def traffic_at(address: str, slow_seconds: float) -> Traffic:
    """Answers of the server so far. Failed: those without success, and those for which its fallback
    stood in. Slow: beyond the least bound of its histogram that reaches ``slow_seconds``.

    Raises:
        StateError: it does not answer.
    """
    requests = failed = 0.0
    total, fast = 0.0, dict[float, float]()
    for family in text_string_to_metric_families(_metrics(address)):
        for name, labels, value, *_ in family.samples:
            if name == "airworthy_requests_total":
                requests += value
                failed += 0 if labels["code"].startswith("2") else value
            elif name == "airworthy_fallback_requests_total":
                failed += value
            elif name == "airworthy_request_seconds_count":
                total += value
            elif name == "airworthy_request_seconds_bucket":
                bound = float(labels["le"])
                fast[bound] = fast.get(bound, 0.0) + value
    bound = min((b for b in fast if b >= slow_seconds), default=math.inf)
    slow = total - fast.get(bound, total)
    # What a fallback answered may be counted before its request is, or fail to be recorded.
    return Traffic(requests=int(requests), failed=int(min(failed, requests)), slow=int(slow))


def _metrics(address: str) -> str:
    try:
        with urllib.request.urlopen(  # noqa: S310 - our own server
            f"{address}/metrics", timeout=10
        ) as answer:
            return str(answer.read().decode())
    except OSError as exc:
        raise StateError(f"{address}/metrics does not answer ({exc}); is its server up?") from exc
