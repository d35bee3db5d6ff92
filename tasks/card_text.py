"""The words and tables of a model card, as Markdown; an empty field is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feature_repo.contract import FeatureSpec, UseCase
from feature_repo.errors import AirworthyError
from feature_repo.fallback import fallback_reasons, request_only
from feature_repo.inputs import input_columns
from feature_repo.tables import Table
from feature_repo.wording import counted
from tasks.figures import SLICE_ROWS, left_out
from tasks.page import markdown_table
from tasks.types import Verdict

_POLICIES = {
    "refuse": "refused",
    "serve": "answered with what is there, flagged and counted",
    "fallback": "answered by the fallback, flagged and counted",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """All that a card tells. ``model`` is model.json, ``quarantine`` the counts by check,
    ``splits`` those of the training set."""

    use_case: UseCase
    model: dict[str, Any]
    evaluation: dict[str, Any]
    verdicts: Sequence[Verdict]
    tables: Sequence[Table]
    quarantine: dict[str, Any]
    training_rows: int
    splits: dict[str, dict[str, Any]]


def refuse_empty(facts: CardFacts) -> None:
    """Every field that the card tells must be filled.

    Raises:
        AirworthyError: names the first empty one.
    """
    case = facts.use_case
    fields: dict[str, Any] = {
        name: getattr(case, name)
        for name in ("description", "owner", "label", "unit", "intended_use", "limitations")
    }
    fields |= {f"description of feature {s.name!r}": s.description for s in case.features}
    fields |= {
        "gate rules": facts.verdicts,
        "raw tables": facts.tables,
        "features": case.features,
        "splits": facts.splits,
        "training configuration": facts.model.get("config"),
        "metrics": facts.evaluation.get("test"),
        "slices": facts.evaluation.get("slices"),
        "calibration": facts.evaluation.get("calibration"),
    }
    for name, value in fields.items():
        if not value or (isinstance(value, str) and not value.strip()):
            raise AirworthyError(
                f"model card of {case.name!r}: {name} is empty; fill it in the use case's "
                "declaration (feature_repo), since no model flies without a full card"
            )


def sections(facts: CardFacts) -> str:
    """The card's body in Markdown, its pictures named as files beside it."""
    case, evaluation = facts.use_case, facts.evaluation
    curve = "precision_recall" if evaluation["task"] == "binary" else "predictions"
    parts = [
        f"# Model card: {case.name}",
        case.description,
        f"**Predicts** `{case.label}` ({case.unit}), a {case.task} task. **Owner:** {case.owner}.",
        f"## Intended use\n\n{case.intended_use}",
        f"## Limitations\n\n{case.limitations}",
        f"## Data contract\n\n{_data(facts)}\n\n![Data contract](data_contract.png)",
        f"## Features\n\n{_features(case)}",
        f"## Splits\n\n{_splits(facts)}",
        f"## Training\n\n{_training(facts.model)}",
        f"## Metrics\n\n{_metrics(evaluation)}",
        f"![Calibration](calibration.png)\n\n![{curve}]({curve}.png)",
        *_fallback(case, evaluation),
        f"## Slices\n\n{_slices(evaluation)}\n\n![Slices](slices.png)",
        f"## Gate\n\n{_gate(facts.verdicts)}",
        f"## How it is served\n\n{_serving(case)}",
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: CardFacts) -> str:
    rows = [[t.name, f"{t.rows:,}", f"`{t.digest[:12]}`"] for t in facts.tables]
    told = markdown_table(("raw table", "rows", "digest"), rows)
    bad = facts.quarantine
    if not bad["checks"]:
        return f"{told}\n\nNo row was quarantined."
    checks = [[c["table"], c["column"], c["check"], f"{c['rows']:,}"] for c in bad["checks"]]
    return (
        f"{told}\n\nQuarantined: {counted(bad['rows'], 'row')}.\n\n"
        f"{markdown_table(('table', 'column', 'check', 'rows'), checks)}"
    )


def _features(case: UseCase) -> str:
    rows = [
        [
            f"`{s.name}`", s.entity.name, s.aggregation, _window(s),
            _bounds(s), s.description,
        ]
        for s in case.features
    ]  # fmt: skip
    stated = ", ".join(f"`{f.name}`" for f in case.fields if f.model_input)
    derived = ", ".join(f"`{d.name}`" for d in case.derived)
    told = f"Stated by the caller: {stated}."
    told += f" Derived from what is stated: {derived}." if derived else ""
    head = ("feature", "entity", "aggregation", "window", "bounds", "meaning")
    return f"{told}\n\n{markdown_table(head, rows)}"


def _window(spec: FeatureSpec) -> str:
    if spec.window is None:
        return "all up to the tick"
    return f"{spec.window.total_seconds() / 3600:g} h"


def _splits(facts: CardFacts) -> str:
    rows = [
        [name, f"{s['rows']:,}", f"{s['labelled']:,}", s["first"], s["last"], s["labels_until"]]
        for name, s in facts.splits.items()
    ]
    head = ("split", "rows", "with label", "first event", "last event", "labels known until")
    return (
        f"{markdown_table(head, rows)}\n\nThe training set has {facts.training_rows:,} rows in "
        "all; it is joined as of each prediction time, so no row holds what was not yet known."
    )


def _training(model: dict[str, Any]) -> str:
    rows = [[f"`{key}`", f"`{value}`"] for key, value in sorted(model["config"].items())]
    if beside := model.get("auxiliary"):
        above = ", ".join(f"{value:g}" for value in beside["above"])
        rows.append(["learned beside the label", f"`{beside['column']}` above {above}"])
    return f"Architecture: {model['architecture']}.\n\n{markdown_table(('option', 'value'), rows)}"


def _metrics(evaluation: dict[str, Any]) -> str:
    def told(side: str, name: str) -> str:
        low, high = evaluation[side]["ci"][name]
        return f"{_number(evaluation[side][name])} ({_number(low)} to {_number(high)})"

    rows = [
        [name, told("test", name), told("reference", name), _number(evaluation["constant"][name])]
        for name in sorted(evaluation["test"]["ci"])
    ]
    head = ("metric", "model", "linear reference", "constant")
    champion = evaluation.get("versus_champion")
    against = ""
    if champion:
        # The gate's margin is against the last champion only, so small losses may add up: ADR 0014.
        against = (
            f"\n\nAgainst the champion: {champion['note']}. Only the last champion is compared: "
            "over many versions small losses, each within the gate's margin, may add up."
        )
    return (
        f"On {evaluation['rows']:,} test rows of {evaluation['days']} days; 95 % intervals by a "
        f"bootstrap over days.\n\n{markdown_table(head, rows)}{against}"
    )


def _fallback(case: UseCase, evaluation: dict[str, Any]) -> list[str]:
    """The model of the request alone: when it answers, what it reads, how good it is."""
    told = evaluation.get("fallback")
    if told is None:
        return []
    rows = [
        [name, f"{_number(told['test'][name])} ({_number(low)} to {_number(high)})",
         _number(evaluation["test"][name]), _number(evaluation["constant"][name])]
        for name, (low, high) in sorted(told["test"]["ci"].items())
    ]  # fmt: skip
    inputs = input_columns(request_only(case))
    read = ", ".join(f"`{name}`" for name in (*inputs.numeric, *inputs.categorical))
    return [
        "## Fallback\n\nIn the place of the model, where stored features are not at hand (declared "
        f"for: {', '.join(sorted(fallback_reasons(case)))}), a small model of the request alone "
        f"answers, and the answer says so. It reads {read}; same rows, split and test.\n\n"
        + markdown_table(("metric", "fallback", "model", "constant"), rows)
    ]


def _slices(evaluation: dict[str, Any]) -> str:
    metric = evaluation["headline"]
    rows = []
    for name, entries in evaluation["slices"].items():
        for value, entry in entries.items():
            bounds = f"{_number(entry.get('low'))} to {_number(entry.get('high'))}"
            figure = [_number(entry[metric]), bounds] if metric in entry else [entry["note"], ""]
            rows.append([f"{name} {value}", f"{entry['rows']:,}", *figure])
    table = markdown_table(("slice", "rows", metric, "95 % interval"), rows)
    unjudged = [f"{k} {v}" for k, es in evaluation["slices"].items() for v in left_out(es, metric)]
    if not unjudged:
        return table
    return (
        f"{table}\n\nNot judged, and no part of the gate's minimum or maximum over slices (fewer "
        f"than {SLICE_ROWS} rows, or rows of one class): {', '.join(unjudged)}."
    )


def _gate(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            v.rule, f"`{v.metric}`", _number(v.value), f"{v.operator} {v.limit:g}",
            "passed" if v.passed else "**refused**", v.note,
        ]
        for v in verdicts
    ]  # fmt: skip
    return markdown_table(("rule", "metric", "value", "limit", "verdict", "note"), rows)


def _serving(case: UseCase) -> str:
    fields = ", ".join(f"`{f.name}` ({f.dtype})" for f in case.fields)
    minutes = case.stale_after.total_seconds() / 60
    stale, out, gone = (
        _POLICIES[policy] for policy in (case.stale_policy, case.outage_policy, case.missing_policy)
    )
    return (
        f"By a KServe model server, V1 and V2 protocol, under the name `{case.name}`. A request "
        f"states {fields}, and its prediction time. Features are read as of a tick of "
        f"{case.tick.total_seconds() / 60:g} minutes, {case.lag.total_seconds() / 60:g} minutes "
        f"after the last event. Where the store lies more than {minutes:g} minutes behind, a "
        f"request is {stale}; where it does not answer, {out}; where an entity has no living row, "
        f"{gone}. Each answer names the model version, the certificate and the age "
        "of each feature group, and is recorded under its prediction id before it is sent."
        + (f" Decisions use a threshold of {case.threshold:g}." if case.task == "binary" else "")
    )


def _bounds(spec: FeatureSpec) -> str:
    if spec.as_age:
        return "an instant, read as minutes up to the tick"
    return f"{spec.bounds[0]:g} to {spec.bounds[1]:g}"


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"
