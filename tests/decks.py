"""What a person sees of a task in Flyte's console."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from flytekit import FlyteContextManager


def pictures_of_deck(title: str) -> list[bytes]:
    """The PNG files in the newest Deck with a tab of this title, among the Decks that local runs
    of tasks in this process left."""
    sandbox = Path(FlyteContextManager.current_context().file_access.local_sandbox_dir)
    decks = sorted(sandbox.glob("*/deck.html"), key=lambda path: path.stat().st_mtime)
    shown = [text for path in decks if f">{title}</li>" in (text := path.read_text())]
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', shown[-1]) if shown else []
    return [base64.b64decode(picture) for picture in found]
