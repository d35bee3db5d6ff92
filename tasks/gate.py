"""The gate: rules as data in, verdicts out. It decides nothing else and reads nothing else."""

import html
import json
import math
from typing import Any, NamedTuple

from flytekit import Deck, task

from feature_repo.contract import GateRule
from feature_repo.registry import get_use_case
from tasks.folders import open_folder
from tasks.resources import SMALL
from tasks.steps import step
from tasks.types import Folder, State, Step, Verdict


class Judged(NamedTuple):
    """Every verdict, and whether all of them passed."""

    verdicts: list[Verdict]
    passed: bool
    step: Step


def judge_rules(rules: tuple[GateRule, ...], evaluation: dict[str, Any]) -> list[Verdict]:
    """Apply each rule to an evaluation. A metric that is absent or NaN fails its rule; only an
    ``optional`` rule passes without its metric."""
    return [_judge(rule, evaluation) for rule in rules]


def _judge(rule: GateRule, evaluation: dict[str, Any]) -> Verdict:
    value = look_up(evaluation, rule.metric)
    shown = float("nan") if value is None else value
    if value is None:
        passed = rule.optional
        note = _reason(rule, evaluation) if passed else "the metric is missing"
    elif math.isnan(value):
        passed, note = False, "the metric is not a number"
    else:
        passed = value >= rule.limit if rule.operator == ">=" else value <= rule.limit
        note = _left_out(evaluation, rule.metric)
    return Verdict(rule.name, rule.metric, rule.operator, rule.limit, shown, passed, note)


def _reason(rule: GateRule, evaluation: dict[str, Any]) -> str:
    """Why an optional rule has nothing to judge: the comparison's own words, if there was one."""
    part = evaluation.get(rule.metric.split(".")[0])
    said = part.get("note") if isinstance(part, dict) else None
    return f"optional: {said}" if said else "optional: there is nothing to compare with"


def _left_out(evaluation: dict[str, Any], path: str) -> str:
    """How many slices an extreme over slices does not cover, and which."""
    value: Any = evaluation
    for part in path.split(".")[:-1]:
        value = value.get(part) if isinstance(value, dict) else None
    names = value.get("left_out") if isinstance(value, dict) else None
    if not names:
        return ""
    return f"without {len(names)} slice{'s'[: len(names) - 1]} of too few rows: {', '.join(names)}"


def look_up(evaluation: dict[str, Any], path: str) -> float | None:
    """The number at a dotted path (digits index a list); None where there is none."""
    value: Any = evaluation
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def verdict_table(verdicts: list[Verdict]) -> str:
    """The verdicts as an HTML table: rule, measured value, limit, verdict."""
    rows = "".join(
        f"<tr><td>{html.escape(v.rule)}</td><td><code>{html.escape(v.metric)}</code></td>"
        f"<td>{_shown(v.value)}</td><td>{html.escape(v.operator)} {v.limit:g}</td>"
        f"<td>{'passed' if v.passed else '<b>refused</b>'}</td><td>{html.escape(v.note)}</td></tr>"
        for v in verdicts
    )
    head = "".join(f"<th>{name}</th>" for name in ("rule", "metric", "value", "limit", "", "note"))
    return f"<table><tr>{head}</tr>{rows}</table>"


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


@task(retries=2, timeout=300, requests=SMALL, enable_deck=True, deck_fields=())
def judge(state: State, use_case: str, declaration: str, evaluation: Folder) -> Judged:
    """Apply the use case's gate rules to an evaluation.

    Not cached: rules are code, and applying them costs nothing.
    """
    with step("gate") as log:
        measured = json.loads((open_folder(evaluation) / "evaluation.json").read_bytes())
        verdicts = judge_rules(get_use_case(use_case).gate, measured)
        for v in verdicts:
            word = "passed" if v.passed else "REFUSED"
            log.say(
                f"{word}: {v.rule} ({_shown(v.value)} {v.operator} {v.limit:g}) {v.note}".strip()
            )
        log.say(f"{sum(v.passed for v in verdicts)} of {len(verdicts)} rules passed")
        Deck("Gate", verdict_table(verdicts))
    return Judged(verdicts, all(v.passed for v in verdicts), log.record)
