"""The model card: what the model is, what it was made from, how good it is, who answers for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flytekit import Deck, task

from feature_repo.contract import UseCase
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, read_table
from tasks.cache import code_cache
from tasks.card_text import CardFacts, refuse_empty, sections
from tasks.folders import open_folder, store_folder
from tasks.page import from_markdown, html_page
from tasks.pictures import draw_contract, inline
from tasks.quarantine import quarantine_counts
from tasks.resources import SMALL
from tasks.splits import split_facts
from tasks.steps import step
from tasks.types import Folder, State, Step, Verdict

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

CODE = (
    "tasks.model_card",
    "tasks.card_text",
    "tasks.figures",
    "tasks.metrics",
    "tasks.page",
    "tasks.pictures",
    "tasks.quarantine",
    "tasks.rows",
    "tasks.splits",
    "feature_repo.dialect",
    "feature_repo.duckdb_session",
    "feature_repo.fallback",
    "feature_repo.inputs",
    "feature_repo.tables",
)


class Carded(NamedTuple):
    """The card's folder: card.md, card.html and the picture of the data contract."""

    card: Folder
    step: Step


@task(
    cache=code_cache(*CODE, libraries=("huggingface-hub", "markdown", "matplotlib")),
    retries=2,
    timeout=600,
    requests=SMALL,
    enable_deck=True,
    deck_fields=(),
)
def write_card(
    state: State,
    use_case: str,
    declaration: str,
    model: Folder,
    evaluation: Folder,
    verdicts: list[Verdict],
    tables: list[Table],
    quarantine: Table,
    training_set: Table,
) -> Carded:
    """Write the model card as Markdown and as one HTML file that holds its pictures.

    Raises:
        AirworthyError: a field of the card is empty; names it.
    """
    with step("card") as log:
        rows = read_table(training_set)
        measured = open_folder(evaluation)
        facts = CardFacts(
            use_case=get_use_case(use_case),
            model=json.loads((open_folder(model) / "model.json").read_bytes()),
            evaluation=json.loads((measured / "evaluation.json").read_bytes()),
            verdicts=verdicts,
            tables=tables,
            quarantine=quarantine_counts(read_table(quarantine)),
            training_rows=training_set.rows,
            splits=split_facts(rows),
        )
        refuse_empty(facts)

        def write(folder: Path) -> None:
            write_files(facts, measured, folder)

        card = store_folder(state.home(), "card", write)
        page = (Path(card.uri) / "card.html").read_text()
        log.say(f"card.md and card.html ({len(page) / 1e3:,.0f} kB), no empty field")
        Deck("Model card", page)
    return Carded(card, log.record)


def write_files(facts: CardFacts, pictures: Path, folder: Path) -> None:
    """Write card.md, card.html and data_contract.png; ``pictures`` holds the evaluation's."""
    from huggingface_hub import ModelCard

    draw_contract(facts.tables, facts.use_case.views, facts.quarantine, facts.splits, folder)
    body = sections(facts)
    text = f"---\n{_metadata(facts.use_case, facts.evaluation).to_yaml()}\n---\n\n{body}"
    ModelCard(text)  # parses the metadata block: a broken one must not be published
    (folder / "card.md").write_text(text)
    (folder / "card.html").write_text(_page(facts.use_case.name, body, [folder, pictures]))


def _page(name: str, body: str, folders: list[Path]) -> str:
    content = from_markdown(body)
    for picture in (p for folder in folders for p in sorted(folder.glob("*.png"))):
        for said in ("Data contract", "Calibration", "Slices", picture.stem):
            content = content.replace(f'<img alt="{said}" src="{picture.name}" />', inline(picture))
    return html_page(f"Model card: {name}", content)


def _metadata(use_case: UseCase, evaluation: dict[str, Any]) -> ModelCardData:
    """The metadata block that model hubs read (huggingface_hub's model-index)."""
    from huggingface_hub import EvalResult, ModelCardData

    binary = use_case.task == "binary"
    kind = "tabular-classification" if binary else "tabular-regression"
    return ModelCardData(
        model_name=use_case.name,
        library_name="onnx",
        pipeline_tag=kind,
        tags=["airworthy", use_case.task],
        eval_results=[
            EvalResult(
                task_type=kind,
                dataset_type=use_case.name,
                dataset_name=f"{use_case.name}, test split",
                metric_type=name,
                metric_value=evaluation["test"][name],
            )
            for name in sorted(evaluation["test"]["ci"])
        ],
    )
