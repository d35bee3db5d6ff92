"""Evaluation: the served graph on rows it has never seen, beside what it must beat."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flytekit import Deck, task

from feature_repo.contract import UseCase
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, read_table
from serving.artifact import FALLBACK
from tasks.cache import code_cache
from tasks.figures import Scored, fallback_figures, figures_of
from tasks.folders import open_folder, store_folder
from tasks.pictures import draw_pictures, inline
from tasks.resources import DATA, SIGNING_ENVIRONMENT, SIGNING_KEY
from tasks.rows import Rows, labelled_rows
from tasks.steps import StepLog, step
from tasks.types import Folder, State, Step

CODE = (
    "tasks.evaluate",
    "tasks.figures",
    "tasks.metrics",
    "tasks.comparison",
    "tasks.splits",
    "tasks.reference",
    "tasks.rows",
    "tasks.pictures",
    "serving.predictor",
    "serving.preprocess",
    "feature_repo.dialect",
    "feature_repo.duckdb_session",
    "feature_repo.fallback",
    "feature_repo.inputs",
    "feature_repo.local_time",
    "feature_repo.tables",
)


class Evaluated(NamedTuple):
    """The evaluation folder, and its headline figure (AUC or RMSE) with the reference's."""

    evaluation: Folder
    metric: str
    value: float
    low: float
    high: float
    reference: float
    step: Step


@task(
    cache=code_cache(
        *CODE, libraries=("matplotlib", "numpy", "onnxruntime", "scikit-learn", "scipy")
    ),
    retries=2,
    timeout=1800,
    requests=DATA,
    secret_requests=[SIGNING_KEY],  # its own key is among those that a champion is verified by
    environment=SIGNING_ENVIRONMENT,
    enable_deck=True,
    deck_fields=(),
)
def evaluate(
    state: State,
    use_case: str,
    declaration: str,
    model: Folder,
    training_set: Table,
    champion: str,
) -> Evaluated:
    """Score the test rows with the served graph; compare with a linear reference, a constant
    and the champion (``champion``: its certified model directory, or empty). The fallback, where
    there is one, is scored on the same rows."""
    with step("evaluate") as log:
        case = get_use_case(use_case)
        rows = read_table(training_set)
        training, test = (labelled_rows(case, rows, s) for s in ("training", "test"))
        report = evaluate_rows(case, open_folder(model), training, test, champion, rows)
        _say(log, report)

        def write(folder: Path) -> None:
            text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False)
            (folder / "evaluation.json").write_text(text)
            draw_pictures(report, folder)

        stored = store_folder(state.home(), "evaluation", write)
        pictures = sorted(Path(stored.uri).glob("*.png"))
        Deck("Evaluation", "".join(map(inline, pictures)))
    metric = report["headline"]
    low, high = report["test"]["ci"][metric]
    value, reference = report["test"][metric], report["reference"][metric]
    return Evaluated(stored, metric, value, low, high, reference, log.record)


def evaluate_rows(
    use_case: UseCase, model: Path, training: Rows, test: Rows, champion: str, rows: Any
) -> dict[str, Any]:
    """The whole evaluation as JSON values; ``rows`` is the training set that both are part of.

    Raises:
        TrainingError: no test row has a label.
    """
    from feature_repo.errors import TrainingError
    from serving.predictor import Predictor, fallback_predictor
    from tasks.comparison import against_champion
    from tasks.reference import constant_scores, linear_scores

    if not len(test):
        raise TrainingError(
            f"{use_case.name}: split 'test' has no labelled row; widen the split dates"
        )
    score = Predictor(use_case, model).predict(test.columns)
    scored = Scored(rows=test, model=score)
    report = figures_of(
        use_case, scored, linear_scores(use_case, training, test), constant_scores(training, test)
    )
    if champion:
        report["versus_champion"] = against_champion(use_case, Path(champion), scored, rows)
    if (model / FALLBACK).is_dir():
        alone = fallback_predictor(use_case, model).predict(test.columns)
        report["fallback"] = fallback_figures(
            use_case.task, test, alone, constant_scores(training, test)
        )
    return report


def _say(log: StepLog, report: dict[str, Any]) -> None:
    """The figures in a few lines, the most telling one last."""
    metric, test = report["headline"], report["test"]
    log.say(f"{report['rows']:,} test rows of {report['days']} days")
    for name, worst in report["slice_min" if metric == "auc" else "slice_max"].items():
        log.say(f"worst {metric} over {name}: {worst[metric]:.4f}")
    champion = report.get("versus_champion")
    if champion:
        log.say(f"against the champion: {champion['note']}")
    if alone := report.get("fallback"):
        low, high = alone["test"]["ci"][metric]
        log.say(f"the fallback: {metric} {alone['test'][metric]:.4f} ({low:.4f} to {high:.4f})")
    for name in ("log_loss", "auc") if report["task"] == "binary" else ("mae", "rmse"):
        low, high = test["ci"][name]
        log.say(
            f"{name} {test[name]:.4f} ({low:.4f} to {high:.4f}); reference "
            f"{report['reference'][name]:.4f}, constant {report['constant'][name]:.4f}"
        )
