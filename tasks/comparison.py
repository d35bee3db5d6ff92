"""A challenger against the champion: the same rows, in pairs, none that either has learned from."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.contract import UseCase
from feature_repo.home import Home
from feature_repo.inputs import Array
from serving import certificate
from serving.artifact import read_model
from serving.predictor import Predictor
from tasks import metrics
from tasks.figures import Scored, differences, rounded
from tasks.ledger import own_trust
from tasks.rows import Rows
from tasks.splits import learned_until, split_facts

if TYPE_CHECKING:
    import pyarrow as pa


def against_champion(
    use_case: UseCase, champion: Path, scored: Scored, training_set: pa.Table
) -> dict[str, Any]:
    """Paired differences (challenger minus champion) on rows later than what both learned from.

    Always has ``subject``, ``rows`` and ``note``; the figures only where such rows exist and
    both models read the same declaration.

    Raises:
        CertificateError: the champion's files are not those that were certified.
    """
    home = Home(root=champion.parents[2])  # models/<use case>/<subject> of the home
    trust, now = own_trust(home), datetime.now(timezone.utc)
    certified = certificate.verify(champion, trust, revoked=(), released=True, now=now)
    result: dict[str, Any] = {"subject": certified.subject, "rows": 0}
    if read_model(champion).declaration != use_case.declaration:
        return {**result, "note": "not comparable: the champion reads another declaration"}
    theirs = learned_until(certified.predicate["training"]["splits"])
    cutoff = max(theirs, learned_until(split_facts(training_set)))
    kept = scored.rows.event_time > np.datetime64(cutoff.removesuffix("Z"))
    later = scored.rows.where(kept)
    if not len(later) or later.target.min() == later.target.max():
        return {**result, "note": f"not comparable: no rows after {cutoff}, the last learned from"}
    champion_scores = Predictor(use_case, champion, certified.files).predict(later.columns)
    told = compare(use_case.task, later, scored.model[kept], champion_scores)
    metric = metrics.headline(use_case.task)
    note = in_words(metric, told[metric], len(later))
    return rounded({**result, **told, "rows": len(later), "after": cutoff, "note": note})


def compare(task: str, rows: Rows, challenger: Array, champion: Array) -> dict[str, dict[str, Any]]:
    """Challenger minus champion per metric, in pairs, with intervals."""
    days = metrics.day_numbers(rows.event_time)
    weights = metrics.day_weights(int(days.max()) + 1)
    sides = [
        (
            dict[str, Any](metrics.points(task, rows.target, score)),
            metrics.measure(task, rows.target, score, days, weights),
        )
        for score in (challenger, champion)
    ]
    return differences(*sides[0], *sides[1])


def in_words(metric: str, told: dict[str, Any], rows: int) -> str:
    """One sentence about a paired difference."""
    figures = f"{told['difference']:+.4f} ({told['low']:+.4f} to {told['high']:+.4f})"
    verdict = "significant" if told["significant"] else "not significant"
    return f"{metric} {figures} on {rows:,} rows, {verdict} at 95 %"
