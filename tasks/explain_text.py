"""An explanation as a text: each feature, the events behind it, and when each became known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby

from feature_repo.contract import FeatureSpec
from feature_repo.explain import Event, Explained, ExplainedView, Explanation
from feature_repo.ticks import EPOCH


def told(explanation: Explanation, newest: int) -> str:
    """The explanation, with at most ``newest`` events of each feature and view, newest first."""
    case = explanation.use_case
    lines = [
        f"{case.name}, {', '.join(f'{k}={v}' for k, v in explanation.entity.items())}, asked at "
        f"{_iso(explanation.at)}",
        f"reads tick {_iso(explanation.tick)}: the last one at least {_span(case.lag)} before "
        f"(ticks of {_span(case.tick)}); an event belongs to the first tick from when it is known",
    ]
    for view in explanation.views:
        lines += ["", *_view(view, explanation.tick, newest)]
    if explanation.left_out:
        needed = sorted({", ".join(v.entity.keys) for v in explanation.left_out})
        names = ", ".join(v.name for v in explanation.left_out)
        lines += ["", f"not explained, for want of keys ({'; '.join(needed)}): {names}"]
    return "\n".join(lines)


def _view(view: ExplainedView, tick: datetime, newest: int) -> Iterator[str]:
    keys, log = ", ".join(view.view.entity.keys), view.view.log
    row = f"row of tick {_iso(view.row)}" if view.row else "no row"
    yield f"== {view.view.name}: log {log.name}, by {keys}; {row}, ttl {_span(view.view.ttl)}"
    # A timetable's events bear the date of their plan: what they state may yet have to happen, as
    # that a flight waits no more.
    dated, unseen = "happened", "that had happened, but were not yet known at the tick"
    if log.scheduled:
        dated, unseen = "dated", "whose date had come, but that were not yet known at the tick"
    for events, features in groupby(view.features, key=lambda f: f.events):
        together = list(features)
        for feature in together:
            yield f"  {feature.spec.name} = {_feature(feature, tick)}"
        columns = dict.fromkeys(n for f in together for n in _columns(f.spec))
        title = "event" if len(events) == 1 else "events"
        yield from _events(events, [dated, *columns], newest, title)
    if view.unseen:
        columns = dict.fromkeys(n for f in view.features for n in _columns(f.spec))
        yield from _events(view.unseen, [dated, *columns], newest, unseen)


def _feature(feature: Explained, tick: datetime) -> str:
    spec, value = feature.spec, feature.value
    if value is None:
        shown = "missing"
    elif spec.as_age:
        age = (tick - EPOCH).total_seconds() - value
        shown = f"{_iso(EPOCH + timedelta(seconds=value))}, {age / 60:g} min before the tick"
    else:
        shown = f"{value:.10g}"
    what = f"{spec.aggregation} of {spec.value}" + (f" by {spec.weight}" if spec.weight else "")
    window = "" if spec.aggregation == "last" else ", all up to the tick"
    window = f", window {_span(spec.window)}" if spec.window else window
    return f"{shown}   ({what}{window}: {spec.description})"


def _columns(spec: FeatureSpec) -> list[str]:
    return [spec.value, *([spec.weight] if spec.weight else [])]


def _events(events: Iterable[Event], names: list[str], newest: int, title: str) -> Iterator[str]:
    """``names``: what an event's own instant is called, then the columns that are shown."""
    every, (dated, *columns) = list(events), names
    shown = every[: -newest - 1 : -1]
    some = f", the {len(shown)} newest" if len(shown) < len(every) else ""
    yield f"    {len(every):,} {title}{some}"
    if not shown:
        return
    head = [dated, "known", "tick", *columns]
    rows = [
        [*map(_at, (e.happened, e.known, e.tick)), *(_cell(e, c) for c in columns)] for e in shown
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for cells in (head, *rows):
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield ("      " + "  ".join(padded)).rstrip()


def _cell(event: Event, column: str) -> str:
    value = event.values[column]
    return "-" if value is None else f"{value:.10g}"


def _at(micros: int) -> str:
    return _iso(EPOCH + timedelta(microseconds=micros))


def _iso(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


def _span(span: timedelta) -> str:
    minutes = span.total_seconds() / 60
    for size, unit in ((1440, "d"), (60, "h")):
        if minutes >= size and minutes % size == 0:
            return f"{minutes / size:g} {unit}"
    return f"{minutes:g} min"
