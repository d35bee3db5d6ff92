"""A champion is revoked and comes back, by the commands of the README."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline import Flown, check_sound

from feature_repo.errors import CertificateError
from feature_repo.registry import get_use_case
from serving.loading import load_service
from tasks.ledger import own_trust


def test_a_revoked_champion_is_refused_until_it_is_reinstated(flown: Flown, tmp_path: Path) -> None:
    """By the server and by a promotion; both name the command that lifts the revocation."""
    place, issued = flown.copy(tmp_path), flown.summary["certificate"]["id"]
    named = ("--certificate_id", issued, "--reason", "a drill")
    assert place.run("registry:revoke", *named).code == 0
    way_back = f"registry.py reinstate --certificate_id {issued}"
    folder = place.root / "models" / "weather" / Path(flown.summary["model"]["path"]).name
    with pytest.raises(CertificateError, match=way_back):
        load_service(place.home, get_use_case("weather"), folder, trust=own_trust(place.home))
    version = ("--model", "weather", "--version", flown.summary["model"]["version"])
    refused = place.run("registry:promote_version", *version)
    assert refused.code != 0
    assert way_back in " ".join(refused.said.split())  # the terminal broke the line
    done = place.run("registry:reinstate", *named)
    assert done.code == 0, done.said
    check_sound(place.home)
    done = place.run("registry:promote_version", *version)
    assert done.code == 0, done.said
