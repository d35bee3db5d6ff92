"""Training runs, found by whichever of their names is at hand, and what is known of each.

A run is named by MLflow's id or the beginning of it, by the version or a certificate of the model
that it made, or by an execution that went on from it. MLflow holds parameters, curve and cost, the
ledger who its executions and certificates are, the certified model directory all that was judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.registry import USE_CASES
from serving import certificate, ledger
from serving.certificate import Certificate
from tasks.ledger import own_trust
from tasks.registry import SUBJECT, VERSION
from tasks.tracking import BEGAN, COST, EXECUTION, LOSSES, client

MOST = 12  # curves and rows that a person still tells apart
TOLD = 20  # known runs that an error names
SHORT = 8  # digits of an id that name a run which has no version


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A run that a home knows, and of its certified models the one that a name means; ``subject``
    and ``version`` are empty where none was registered."""

    id: str
    use_case: str
    subject: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """Short and unique within the use case."""
        return self.version or self.id[:SHORT]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A training run and all that is recorded of it.

    ``params`` are texts, as MLflow holds them; ``curve`` has the losses [epochs] by name and
    ``cost`` what the training took, by the names of ``COST``: older runs lack it; ``began``: the
    step of another training that it went on from, whose cost is not in it. ``folder`` and
    ``certificate`` are None where no model of it was certified, or it was cleaned away.
    """

    known: Known
    params: dict[str, str]
    curve: dict[str, list[float]]
    cost: dict[str, float]
    began: int
    folder: Path | None
    certificate: Certificate | None


def find_runs(home: Home, names: list[str]) -> list[Run]:
    """The runs that are meant, in the order of their names.

    Raises:
        StateError: fewer than two names or more than a dozen, an unknown one, one that means
            several runs, two that mean the same, or runs of several use cases.
        CertificateError: a certificate was changed.
    """
    if not 2 <= len(names) <= MOST:
        raise StateError(f"{len(names)} runs are named, but it must be 2 to {MOST}: name others")
    with home.lock("mlflow"):
        mlflow = client(home)
        index = _index(mlflow, home)
        found = [_meant(index, name) for name in names]
        _check_alike(names, found)
        return [_read(mlflow, home, one) for one in found]


def _index(mlflow: Any, home: Home) -> dict[str, list[Known]]:
    """Every name, and what it may mean."""
    index: dict[str, list[Known]] = defaultdict(list)

    def add(name: str, one: Known) -> None:
        if one not in index[name]:
            index[name].append(one)

    models = {
        v.tags[SUBJECT]: Known(
            id=str(v.run_id), use_case=v.name, subject=v.tags[SUBJECT], version=v.tags[VERSION]
        )
        for v in mlflow.search_model_versions()
        if SUBJECT in v.tags
    }
    for one in models.values():
        add(one.version, one)
        add(f"{one.use_case}:{one.version}", one)
    for entry in ledger.entries(home):
        facts, subject = entry["facts"], entry["subject"]
        if entry["kind"] == "certificate" and subject in models:
            add(facts["certificate"], models[subject])
        elif entry["kind"] == "execution" and facts["outputs"]["model"] in models:
            add(subject, models[facts["outputs"]["model"]])
    told = set(index)
    for use_case, run in _all_runs(mlflow):
        one = models.get(run.data.tags.get(SUBJECT), Known(id=run.info.run_id, use_case=use_case))
        add(run.info.run_id, one)
        for tag in run.data.tags:
            execution = tag.removeprefix(EXECUTION)
            if execution != tag and execution not in told:  # killed before its end
                add(execution, one)
    return index


def _all_runs(mlflow: Any) -> Iterator[tuple[str, Any]]:
    """Every run of every use case, the newest first, with the use case's name."""
    for use_case in USE_CASES:
        experiment = mlflow.get_experiment_by_name(use_case)
        token = None if experiment else ""
        while token != "":
            page = mlflow.search_runs([experiment.experiment_id], page_token=token)
            yield from ((use_case, run) for run in page)
            token = page.token or ""


def _meant(index: dict[str, list[Known]], name: str) -> Known:
    found = index.get(name, [])
    known = list(dict.fromkeys(one for several in index.values() for one in several))
    if not found and len(name) >= SHORT:
        found = [one for one in known if one.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        told = ", ".join(f"{one.use_case}:{one.version or one.id}" for one in found)
        raise StateError(f"{name!r} may mean several runs: name one of {told}")
    told = "; ".join(f"{one.use_case}:{one.version or one.id}" for one in known[:TOLD])
    more = f" and {len(known) - TOLD:,} more" if len(known) > TOLD else ""
    raise StateError(
        f"no run {name!r}: it may be named by MLflow's run id (or its first {SHORT} digits), by "
        "the version or the certificate of its model, or by an execution; this home knows "
        f"{told or 'none yet'}{more}"
    )


def _check_alike(names: list[str], found: list[Known]) -> None:
    for place, one in enumerate(found):
        if one in found[:place]:
            first = names[found.index(one)]
            raise StateError(f"{first!r} and {names[place]!r} are the same run: name it once")
    cases = sorted({one.use_case for one in found})
    if len(cases) > 1:
        raise StateError(
            f"the runs are of {' and '.join(cases)}, which share neither rows nor labels: name "
            "runs of one use case"
        )


def _read(mlflow: Any, home: Home, one: Known) -> Run:
    data = mlflow.get_run(one.id).data
    histories = {name: mlflow.get_metric_history(one.id, name) for name in LOSSES}
    folder = home.root / "models" / one.use_case / one.subject
    held = bool(one.subject) and folder.is_dir()
    return Run(
        known=one,
        params=dict(data.params),
        curve={
            name: [value for _, value in sorted({m.step: float(m.value) for m in told}.items())]
            for name, told in histories.items()  # a record that was killed and made again has both
        },
        cost={name: float(data.metrics[name]) for name in COST if name in data.metrics},
        began=int(data.metrics.get(BEGAN, 0)),
        folder=folder if held else None,
        certificate=certificate.read(folder, own_trust(home)) if held else None,
    )
