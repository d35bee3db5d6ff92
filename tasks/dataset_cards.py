"""Dataset cards: a page for each raw table and feature view, and one that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from flytekit import Deck, task

from feature_repo.contract import UseCase
from feature_repo.home import Home, open_home, write_atomically
from feature_repo.registry import get_use_case
from tasks.data_pictures import distributions, over_versions
from tasks.dataset_facts import gather, stored_now
from tasks.dataset_text import DatasetFacts, index, refuse_empty, sections
from tasks.page import from_markdown, html_page
from tasks.pictures import inline_png
from tasks.resources import DATA
from tasks.steps import step
from tasks.types import Step


class Written(NamedTuple):
    """The page that lists all cards, how many there are, and what the step did."""

    page: str
    cards: int
    step: Step


@task(requests=DATA, retries=2, timeout=timedelta(minutes=30), enable_deck=True, deck_fields=())
def write_cards(use_case: str) -> Written:
    """Write a card of each raw table and feature view of the newest version of the data.

    Raises:
        DeclarationError: no such use case.
        StateError: there is no version of its data yet.
        AirworthyError: a field of a card is empty; names it.
    """
    with step("cards") as s:
        home, declared = open_home(), get_use_case(use_case)
        facts = gather(home, declared, stored_now(home, declared))
        made = pages(declared, facts)
        path = write_pages(home, declared, made)
        for name, page in made.items():
            Deck(name.removesuffix(".html"), page)
        broken = sorted({f.log for one in facts for f in one.freshness if not f.kept})
        s.say(
            f"{len(facts)} cards as of {facts[0].as_of}, in {path.parent}; freshness promises "
            + (f"broken: {', '.join(broken)}" if broken else "kept")
        )
    return Written(str(path), len(facts), s.record)


def pages(use_case: UseCase, facts: Sequence[DatasetFacts]) -> dict[str, str]:
    """HTML by file name, the index first; the same facts make the same bytes.

    Raises:
        AirworthyError: a field of a card is empty; names it.
    """
    made = {
        "index.html": html_page(
            f"Datasets of {use_case.name}",
            from_markdown(index(use_case.name, use_case.description, facts)),
        )
    }
    for one in facts:
        refuse_empty(one)
        made[one.page] = html_page(f"Dataset card: {one.name}", _content(one))
    return made


def _content(facts: DatasetFacts) -> str:
    content = from_markdown(sections(facts))
    drawn = inline_png(distributions(facts.columns), f"Distributions of {facts.name}")
    content = content.replace("{distributions}", drawn)
    known = [v for v in facts.versions if v.quarantined is not None]
    if known:
        bars = over_versions(
            [str(v.number) for v in known], [v.quarantined or 0 for v in known], "rows quarantined"
        )
        content = content.replace("{quarantine}", inline_png(bars, "Quarantine over versions"))
    return content


def write_pages(home: Home, use_case: UseCase, made: dict[str, str]) -> Path:
    """Write each page, the index last, and drop those of datasets that are no more.

    A reader sees each page whole, old or new.
    """
    folder = home.path("cards", use_case.name, "index.html").parent
    for name in reversed(made):
        # Housekeeping clears what a killed process leaves in the folder above.
        write_atomically(folder / name, made[name].encode(), aside=folder.parent)
    for path in folder.glob("*.html"):
        if path.name not in made:
            path.unlink()
    return folder / "index.html"
