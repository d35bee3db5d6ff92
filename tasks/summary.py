"""An execution's summary: as JSON in the home, as a table on the terminal, as an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.home import Home, open_home, write_atomically
from tasks.types import Step

REPORT = "summary.json"


def step_rows(steps: list[Step], began: str) -> list[dict[str, Any]]:
    """Name, seconds and origin of each step: one that finished before ``began`` was cached."""
    start = datetime.fromisoformat(began)
    return [
        {
            "name": s.name,
            "seconds": s.seconds,
            "cached": datetime.fromisoformat(s.finished_at) < start,
            "message": s.message,
        }
        for s in steps
    ]


def write_summary(home: Home, summary: dict[str, Any]) -> Path:
    """Write it as the use case's report and as the newest one; returns the latter's path."""
    content = json.dumps(summary, indent=1).encode()
    write_atomically(home.path("reports", f"{summary['use_case']}.json"), content)
    write_atomically(home.path("reports", REPORT), content)
    return home.path("reports", REPORT)


def render(summary: dict[str, Any]) -> str:
    """The summary as a text for a terminal."""
    lines = [
        "",
        f"=== {summary['use_case']}: {_outcome(summary)} ===",
        f"rows read {summary['rows_read']:,}   quarantined {summary['rows_quarantined']:,}   "
        f"features {summary['features']}   training rows {summary['training_rows']:,}   "
        f"test rows {summary['test_rows']:,}",
        "",
        f"{'metric':<20}{'model':>10}  {'95 % interval':<18}{'reference':>10}{'constant':>10}",
    ]
    lines += [_metric_line(summary, name) for name in summary["test"] if name != "ci"]
    if alone := summary.get("fallback"):
        lines += ["", f"{'fallback':<20}{'alone':>10}  {'95 % interval':<18}{'- constant':>10}"]
        lines += [_fallback_line(alone, name) for name in alone["test"]["ci"]]
    lines += ["", "gate"]
    for verdict in summary["gate"]["verdicts"]:
        mark = "pass" if verdict["passed"] else "FAIL"
        value = "none" if verdict["value"] is None else f"{verdict['value']:.4f}"
        lines.append(
            f"  {mark}  {verdict['rule']:<44} {value:>8} {verdict['operator']} "
            f"{verdict['limit']}{'  ' + verdict['note'] if verdict['note'] else ''}"
        )
    lines += ["", f"{'step':<18}{'seconds':>9}  cached  what it did"]
    for s in summary["steps"]:
        cached = "yes" if s["cached"] else "no"
        lines.append(f"{s['name']:<18}{s['seconds']:>9.1f}  {cached:<6}  {_last(s['message'])}")
    lines += ["", *_places(summary)]
    return "\n".join(lines)


def _outcome(summary: dict[str, Any]) -> str:
    if not summary["gate"]["passed"]:
        return f"model {summary['model']['version']} REFUSED by the gate"
    version, served = summary["model"]["version"], summary["model"]["served"]
    done = f"model {version} certified and released"
    return done if served == version else f"{done}, but {served} is served"


def _metric_line(summary: dict[str, Any], name: str) -> str:
    test, ci = summary["test"], summary["test"].get("ci", {}).get(name)
    interval = f"{ci[0]:.4f} to {ci[1]:.4f}" if ci else ""
    others = "".join(
        f"{summary[part][name]:>10.4f}" if summary[part].get(name) is not None else f"{'-':>10}"
        for part in ("reference", "constant")
    )
    value = f"{test[name]:>10.4f}" if test[name] is not None else f"{'-':>10}"
    return f"{name:<20}{value}  {interval:<18}{others}"


def _fallback_line(alone: dict[str, Any], name: str) -> str:
    (low, high), beside = alone["test"]["ci"][name], alone["versus_constant"].get(name)
    gain = f"{beside['difference']:>+10.4f}" if beside else f"{'-':>10}"
    return f"{name:<20}{alone['test'][name]:>10.4f}  {f'{low:.4f} to {high:.4f}':<18}{gain}"


def _last(message: str) -> str:
    return message.rsplit("\n", 1)[-1]


def _places(summary: dict[str, Any]) -> list[str]:
    places = [
        f"certificate  {summary['certificate']['id']}  {summary['certificate']['path']}",
        f"model card   {summary['card']}",
        f"manifest     {summary['manifest'] or 'none: the model was refused'}",
        f"ledger       {summary['ledger']}",
    ]
    if summary["model"]["released"]:
        named = "" if summary["use_case"] == "flights" else f" USE_CASE={summary['use_case']}"
        places.append(f"serve it     make serve{named} (version {summary['model']['served']})")
    return places


def check(home: Home) -> int:
    """0 when the newest summary's gate passed and its model was released, else 1."""
    path = home.path("reports", REPORT)
    if not path.exists():
        print(f"no summary at {path}: run a pipeline first", file=sys.stderr)
        return 1
    summary = json.loads(path.read_text())
    if summary["gate"]["passed"] and summary["model"]["released"]:
        return 0
    failed = [v["rule"] for v in summary["gate"]["verdicts"] if not v["passed"]]
    print(
        f"{summary['use_case']} {summary['model']['version']} was not released; rules that failed: "
        f"{', '.join(failed) or 'none'}; see {summary['card']}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print or check the newest pipeline summary.")
    parser.add_argument("--check", action="store_true", help="exit 1 unless a model was released")
    if parser.parse_args().check:
        sys.exit(check(open_home()))
    print(render(json.loads(open_home().path("reports", REPORT).read_text())))
