"""The model card: complete, deterministic, its pictures inside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decks import pictures_of_deck
from huggingface_hub import ModelCard
from judging_helpers import fresh_home, judged
from toy import TOY, toy_registered

from feature_repo.errors import AirworthyError
from feature_repo.home import folder_digests
from feature_repo.tables import read_table
from tasks.card_text import CardFacts, refuse_empty, sections
from tasks.model_card import write_files
from tasks.quarantine import quarantine_counts
from tasks.splits import split_facts

Made = tuple[CardFacts, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The facts of a certified toy model, and its directory with the card that they made."""
    with toy_registered():
        run = judged(fresh_home(tmp_path_factory.mktemp("card") / "home"))
    directory = Path(run.certified.model_dir)
    table = read_table(run.training_set)
    lineage = json.loads((directory / "lineage.json").read_text())
    facts = CardFacts(
        use_case=TOY,
        model=json.loads((directory / "model.json").read_text()),
        evaluation=json.loads((directory / "evaluation.json").read_text()),
        verdicts=run.verdicts,
        tables=[run.training_set],
        quarantine=lineage["data"]["quarantine"],
        training_rows=table.num_rows,
        splits=split_facts(table),
    )
    return facts, directory


def test_the_card_tells_what_a_reader_must_know(made: Made) -> None:
    facts, directory = made
    card = ModelCard.load(directory / "card.md")
    assert card.data.model_name == "toy"
    told = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert told["auc"] == facts.evaluation["test"]["auc"]
    for text in (
        TOY.owner, TOY.intended_use, TOY.limitations, "in_range(0, 9999)", "origin_delay_mean",
        "-60 to 600", "linear reference", "constant", "slice_min.origin.auc", "KServe", "slope",
        "Not judged", "carrier UA.",
        "| training |", "| origin JFK |", "Quarantined: 2 rows", "too few rows",
    ):  # fmt: skip
        assert text in card.text, text


def test_the_html_card_stands_alone(made: Made) -> None:
    _, directory = made
    page = (directory / "card.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert len(re.findall("<img ", page)) == 4
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<table>" in page


def test_the_deck_shows_the_card_with_its_pictures(made: Made) -> None:
    """What a person sees in Flyte's console; the evaluation's Deck shows its own."""
    files = {path.read_bytes() for path in made[1].glob("*.png")}
    assert len(files) == 4
    assert set(pictures_of_deck("Model card")) == files
    shown = set(pictures_of_deck("Evaluation"))
    assert len(shown) == 3
    assert shown < files


def test_every_file_that_the_markdown_shows_lies_beside_it(made: Made) -> None:
    _, directory = made
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (directory / "card.md").read_text())
    assert len(pictures) == 4
    for picture in pictures:
        assert (directory / picture).is_file(), picture


def test_the_same_facts_make_the_same_bytes(made: Made, tmp_path: Path) -> None:
    facts, directory = made
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_files(facts, directory, tmp_path / name)
        digests.append(folder_digests(tmp_path / name))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "field", ["description", "owner", "unit", "label", "intended_use", "limitations"]
)
@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_field_of_the_declaration_is_refused_by_name(
    made: Made, field: str, empty: str
) -> None:
    changes: dict[str, Any] = {field: empty}
    facts = replace(made[0], use_case=replace(TOY, **changes))
    with pytest.raises(AirworthyError, match=f"{field} is empty"):
        refuse_empty(facts)


def test_an_empty_part_is_refused_by_name(made: Made) -> None:
    facts, _ = made
    refuse_empty(facts)
    silent = replace(TOY.features[0], description="")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"use_case": replace(TOY, features=(silent, TOY.features[1]))}, "'origin_delay_mean'"),
        ({"verdicts": []}, "gate rules"),
        ({"tables": []}, "raw tables"),
        ({"splits": {}}, "splits"),
        ({"model": {**facts.model, "config": {}}}, "training configuration"),
        ({"evaluation": {**facts.evaluation, "slices": {}}}, "slices"),
    )
    for changes, name in cases:
        with pytest.raises(AirworthyError, match=f"{name} is empty"):
            refuse_empty(replace(facts, **changes))


def test_a_clean_source_says_so(made: Made) -> None:
    facts, _ = made
    text = sections(replace(facts, quarantine={"rows": 0, "checks": []}))
    assert "No row was quarantined" in text


def test_a_row_that_broke_two_rules_counts_once(made: Made) -> None:
    facts, _ = made
    assert facts.quarantine["rows"] == 2
    assert [c["rows"] for c in facts.quarantine["checks"]] == [1, 2]
    empty = read_table(facts.tables[0]).slice(0, 0)
    columns = {"origin": "table", "distance": "row", "carrier": "column", "split": "check"}
    renamed = empty.select(list(columns)).rename_columns(list(columns.values()))
    assert quarantine_counts(renamed) == {"rows": 0, "checks": []}
