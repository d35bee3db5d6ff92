"""Runs side by side: found by any of their names, compared where their rows are the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from decks import pictures_of_deck
from judging_helpers import Judged, fresh_home, judged
from registry_helpers import directory_of
from toy import toy_registered, toy_rows

from feature_repo.errors import CertificateError, StateError
from feature_repo.home import Home
from feature_repo.registry import USE_CASES
from feature_repo.tables import write_table
from tasks.registry import register_version
from tasks.run_pairs import pairs_with_first
from tasks.runs import find_runs
from tasks.steps import Cost
from tasks.tracking import client, experiment_id, log_training, metrics_of, tag_execution
from tasks.training.run import Epoch
from tasks.types import TrainingConfig
from tasks.watch.seen import Seen
from workflows import experiments

ROWS = 2400
CURVE = [Epoch(epoch=n, training_loss=0.6 / n, validation_loss=0.5 / n) for n in (1, 2, 3)]


@dataclass(frozen=True)
class Told:
    """A home with four trainings of ``toy`` by name, and a fifth in MLflow alone."""

    home: Home
    runs: dict[str, Judged]
    bare: str

    def id_of(self, name: str) -> str:
        """MLflow's id of a training."""
        (version,) = client(self.home).search_model_versions(
            f"tags.`airworthy.subject` = '{self.runs[name].certified.subject}'"
        )
        return str(version.run_id)

    def version(self, name: str) -> str:
        """The semantic version of a training's model."""
        return self.runs[name].certified.version


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = fresh_home(tmp_path_factory.mktemp("compared") / "home")
    rows = toy_rows(ROWS)
    with toy_registered():
        runs = {
            name: trained(home, name, slope, table)
            for name, slope, table in (
                ("first", 0.8, rows), ("alike", 0.78, rows), ("worse", 0.0, rows),
                ("later", 0.79, split_later(rows)),
            )
        }  # fmt: skip
        mlflow = client(home)
        bare = mlflow.create_run(experiment_id(mlflow, home, "toy"))
        mlflow.log_param(bare.info.run_id, "width", "8")
        told = Told(home, runs, bare.info.run_id)
        for name in ("first", "worse"):
            tag_execution(mlflow, told.id_of(name), "shared")
        yield told


def trained(home: Home, name: str, slope: float, rows: pa.Table) -> Judged:
    """A model that was trained with its own width, judged, certified and registered."""
    table = write_table(home, "training_set", rows)
    made = judged(home, slope, table=table)
    config = replace(TrainingConfig(), width=int(slope * 100) + 1)
    cost = Cost(seconds=2.0, cpu_seconds=3.5, gpu_seconds=0.0)
    began = 12 if name == "later" else 0
    seen = Seen(curve=CURVE, points=[], phases={}, cost=cost, began=began)
    log_training(home, "toy", made.trained, table, config, metrics_of(seen))
    register_version(home, "toy", directory_of(home, made), made.trained, f"local-{name}")
    return made


def split_later(rows: pa.Table) -> pa.Table:
    """The first half of the test part was trained on."""
    test = pc.equal(rows["split"], "test")
    early = pc.less(rows["event_time"], rows["event_time"][ROWS * 5 // 6])
    split = pc.if_else(pc.and_(test, early), "training", rows["split"])
    return rows.set_column(rows.schema.get_field_index("split"), "split", split)


def compared(told: Told, names: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures of the workflow's report, whose page is beside them."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(told.home.root))
    path = Path(experiments.compare(runs=names))
    assert path.parent == told.home.root / "reports"
    figures: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return figures | {"page": path.read_text()}


def test_any_name_of_a_run_will_do(told: Told) -> None:
    """MLflow's id and its beginning, version, version of a use case, certificate and execution
    mean the same."""
    made = told.runs["first"].certified
    names = [
        told.id_of("first"),
        told.id_of("first")[:8],
        made.version,
        f"toy:{made.version}",
        made.certificate,
        "local-first",
    ]
    for name in names:
        one, other = find_runs(told.home, [name, told.version("worse")])
        assert one.known.id == told.id_of("first")
        assert one.certificate is not None
        assert one.certificate.id == made.certificate
        assert one.known.name == made.version
        assert other.certificate is not None
        assert one.curve["validation_loss"] == [0.5, 0.25, 0.5 / 3]
        assert list(one.cost.values()) == [2.0, 3.5, 0.0]


def test_what_a_report_calls_a_run_names_it_and_a_record_made_twice_is_one(told: Told) -> None:
    """A run without a model is called by the beginning of its id; one that was killed before its
    end logged each epoch, and then logged it again."""
    mlflow = client(told.home)
    for _ in range(2):
        for step, loss in enumerate((0.6, 0.3, 0.2), start=1):
            mlflow.log_metric(told.bare, "validation_loss", loss, step=step)
    bare, _ = find_runs(told.home, [told.bare, "1.0.0"])
    assert bare.curve["validation_loss"] == [0.6, 0.3, 0.2]
    again, _ = find_runs(told.home, [bare.known.name, "1.0.0"])
    assert again.known == bare.known
    with pytest.raises(StateError, match="no run"):
        find_runs(told.home, [told.bare[:7], "1.0.0"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.0.0"], "1 runs are named, but it must be 2 to 12"),
        ([str(n) for n in range(13)], "must be 2 to 12"),
        (["1.0.0", "9.9.9"], "no run '9.9.9': .* this home knows toy:1.3.0; toy:1.2.0"),
        (["1.0.0", "local-first"], "'1.0.0' and 'local-first' are the same run"),
        (["1.0.0", "shared"], "'shared' may mean several runs: name one of toy:"),
    ],
)
def test_names_that_mean_no_runs_are_refused(told: Told, names: list[str], said: str) -> None:
    with pytest.raises(StateError, match=said):
        find_runs(told.home, names)


def test_runs_of_two_use_cases_are_refused(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(USE_CASES, "other", replace(USE_CASES["toy"], name="other"))
    mlflow = client(told.home)
    run = mlflow.create_run(experiment_id(mlflow, told.home, "other")).info.run_id
    with pytest.raises(StateError, match="of other and toy, which share neither rows nor labels"):
        find_runs(told.home, [run, "1.0.0"])


def test_only_what_differs_is_told_and_only_what_is_significant_is_called_so(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = compared(told, [told.version(n) for n in ("first", "alike", "worse")], monkeypatch)
    assert figures["differing"] == {"width": ["81", "79", "1"]}
    alike, worse = figures["pairs"]
    test_rows = sum(s == "test" for s in toy_rows(ROWS)["split"].to_pylist())
    assert alike["rows"] == worse["rows"] == test_rows
    assert not alike["differences"]["auc"]["significant"]
    assert alike["differences"]["auc"]["low"] <= 0 <= alike["differences"]["auc"]["high"]
    assert worse["differences"]["auc"]["high"] < -0.1
    page = str(figures["page"])
    assert f"{told.version('alike')} against 1.0.0: auc" in page
    assert "not significant at 95 %" in page
    assert "went on from step" not in page
    pictures = pictures_of_deck("Comparison")
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in pictures)


def test_a_pair_s_differences_are_those_of_the_certified_figures(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same rows the difference of two certified figures, whichever comes first."""
    figures = compared(told, [told.version("worse"), told.version("first")], monkeypatch)
    (pair,) = figures["pairs"]
    worse, first = (run["test"] for run in figures["runs"])
    for name, said in pair["differences"].items():
        assert said["difference"] == pytest.approx(first[name] - worse[name], abs=1e-9), name


def test_rows_that_only_one_was_judged_on_are_left_out(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that learned from the first half of the other's test part is compared on the second;
    that it went on from another one's checkpoint, its cost says."""
    figures = compared(told, [told.version("first"), told.version("later")], monkeypatch)
    (pair,) = figures["pairs"]
    first, later = (pc.sum(pc.equal(t["split"], "test")).as_py()
                    for t in (toy_rows(ROWS), split_later(toy_rows(ROWS))))  # fmt: skip
    assert pair["rows"] == later < first
    assert f"the test rows that both have, of {first:,} and {later:,}" in pair["note"]
    assert "These are of different training sets" in str(figures["page"])
    told_of_cost = f"{told.version('later')} went on from step 12 of another training"
    assert told_of_cost in str(figures["page"])


def test_a_run_without_a_model_has_its_curve_and_no_pair(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a trial of a sweep: what differs is told, and why there is no difference."""
    figures = compared(told, [told.version("first"), told.bare], monkeypatch)
    (pair,) = figures["pairs"]
    assert pair["differences"] == {}
    assert f"not comparable: {told.bare[:8]} has no certified model in this home" in pair["note"]
    assert figures["differing"]["width"] == ["81", "8"]


def test_a_model_that_was_changed_is_refused(told: Told, tmp_path: Path) -> None:
    """No figure is told of a file that is not the certified one."""
    home = Home(root=tmp_path / "home")
    shutil.copytree(told.home.root, home.root)
    folder = directory_of(home, told.runs["worse"])
    (folder / "preprocess.json").write_text((folder / "preprocess.json").read_text() + " ")
    runs = find_runs(home, [told.version("first"), told.version("worse")])
    with pytest.raises(CertificateError, match="was changed after it was verified"):
        pairs_with_first(home, USE_CASES["toy"], runs)
