"""A certified model is served only by a program that computes its inputs as its training did."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from serving_helpers import NOW, flights_store, predicate, write_model

from feature_repo.errors import CertificateError
from feature_repo.home import Home, digest_of, folder_digests
from feature_repo.registry import get_use_case
from serving import dsse, revocations
from serving.certificate import issue
from serving.loading import load_service
from tasks.ledger import append

FLIGHTS = get_use_case("flights")


def load(home: Home, **changes: Any) -> None:
    """Certify and load a model whose ``model.json`` says something else."""
    key, folder = dsse.signing_key(home), home.path("models", "flights", "new")
    write_model(folder, FLIGHTS)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    folder = folder.rename(folder.with_name(digest_of(folder_digests(folder))))
    revocations.complete(home, key, (), NOW)
    certificate = issue(key, folder, predicate(FLIGHTS), timedelta(days=90), NOW)
    told = {"use_case": FLIGHTS.name, "certificate": certificate.id}
    append(home, "certificate", folder.name, told)
    flights_store(home)
    load_service(home, FLIGHTS, folder, trust=dsse.trust(home, allow_development=True)).close()


def test_what_agrees_is_loaded(tmp_path: Path) -> None:
    load(Home(root=tmp_path))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tick_seconds": 3600}, "a tick in seconds of 3600, this program declares 900"),
        ({"lag_seconds": 0}, "a lag in seconds of 0, this program declares 300"),
        ({"inputs": {"numeric": ["temp"], "categorical": []}}, r"numeric inputs \('temp',\)"),
    ],
)
def test_what_was_trained_otherwise_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    """Its numbers would be computed by another rule than those that it has learned from."""
    with pytest.raises(CertificateError, match=named):
        load(Home(root=tmp_path), **changes)
