"""Training: ranks agree with one process, divergence is named, and what is stored is served."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rich_click as click
from decks import pictures_of_deck
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.interaction.click_types import JsonParamType
from pipeline import SHORT, Flown, told

from feature_repo.code_version import code_version
from feature_repo.contract import UseCase
from feature_repo.errors import DeclarationError, TrainingError
from feature_repo.home import Home
from feature_repo.inputs import model_inputs
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, read_table, table_place, write_table
from serving.predictor import Predictor
from serving.preprocess import UNKNOWN, Preprocessor
from tasks.fit import Fitted, fit
from tasks.record import record_training
from tasks.rows import labelled_rows
from tasks.state import open_state
from tasks.tracking import client
from tasks.train import train_two_ranks
from tasks.types import DEFAULTS, State, Step, TrainingConfig

CONFIG = TrainingConfig(**(SHORT | {"epochs": 2, "dropout": 0.0, "batch_size": 512}))  # type: ignore[arg-type]  # one dict of ints and floats


@pytest.fixture(scope="module")
def weather() -> UseCase:
    """The use case with the quickest training."""
    return get_use_case("weather")


@pytest.fixture(scope="module")
def table(flown: Flown, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A part of the pipeline's training set, in a home of its own."""
    digest = told(flown.place.home, "execution")[0]["facts"]["outputs"]["training_set"]
    uri = str(table_place(flown.place.home, digest))
    whole = read_table(Table("training_set", uri, digest, "", 0))
    rows = whole.take(np.arange(0, whole.num_rows, 4))
    return write_table(Home(root=tmp_path_factory.mktemp("train")), "training_set", rows)


def silent(message: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def one(weather: UseCase, table: Table) -> Fitted:
    """A training in this process."""
    return fit(weather, table, CONFIG, silent)


def test_two_ranks_learn_what_one_process_learns(one: Fitted, table: Table, tmp_path: Path) -> None:
    """The gradient is that of the global batch, so the losses agree but for rounding."""
    home = Home(root=tmp_path)
    of = {
        "state": State(str(home.root), home.id), "use_case": "weather", "training_set": table,
        "config": CONFIG,
    }  # fmt: skip
    made = train_two_ranks(**of, declaration="any")
    record = json.loads((Path(made.trained.uri) / "training.json").read_text())
    two = record["curve"]
    assert two[0]["validation_loss"] == pytest.approx(one.curve[0].validation_loss, abs=1e-3)
    assert two[0]["training_loss"] == pytest.approx(one.curve[0].training_loss, abs=1e-3)
    assert record["training_rows"] == one.training_rows
    assert record["validation_rows"] == one.validation_rows
    recorded = {record_training(**of, trained=made.trained, metrics=made.metrics) for _ in range(2)}
    check_seen(home, recorded, made.step)


def check_seen(home: Home, recorded: set[str], done: Step) -> None:
    """The Deck of rank 0, MLflow's run and the step's record say what was seen and what it took."""
    (picture,) = pictures_of_deck("Training")
    assert picture.startswith(b"\x89PNG")
    mlflow = client(home)
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("weather").experiment_id])
    assert {run.info.run_id} == recorded
    told = run.data.metrics
    assert 0 < told["training_seconds"] < done.seconds
    assert told["training_cpu_seconds"] == pytest.approx(done.cpu_seconds, abs=1e-3)
    assert told["training_gpu_seconds"] == done.gpu_seconds == 0
    assert told["phase_seconds_backward"] > 0
    assert told["step_loss"] > told["training_loss"]  # of the batches before, too
    assert {"gradient_norm", "rows_per_second", "validation_loss"} <= set(told)


def test_same_seed_gives_the_same_curve(weather: UseCase, one: Fitted, table: Table) -> None:
    """Loss by loss, and the weights too."""
    other = fit(weather, table, CONFIG, silent)
    assert other.curve == one.curve
    weights = one.network.state_dict()
    assert all(value.equal(weights[k]) for k, value in other.network.state_dict().items())


def test_divergence_names_the_learning_rate(weather: UseCase, table: Table) -> None:
    """A loss that is not finite ends the training at once."""
    wild = dataclasses.replace(CONFIG, learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"not finite at step .* lower learning_rate, now 1e\+30"
    ):
        fit(weather, table, wild, silent)


def test_split_without_rows_is_named(weather: UseCase, table: Table) -> None:
    """Dates that leave no validation row are a mistake of the caller's."""
    rows = read_table(table)
    kept = rows.filter(pc.not_equal(rows["split"], "validation"))
    home = Home(root=Path(table.uri).parent.parent)
    with pytest.raises(TrainingError, match="split 'validation' has no labelled row"):
        fit(weather, write_table(home, "training_set", kept), CONFIG, silent)


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("what", ["temp_now", "label"])
def test_an_infinite_value_is_named(weather: UseCase, table: Table, split: str, what: str) -> None:
    """With its column and a row, before the first epoch."""
    rows = read_table(table)
    values = rows[what].to_numpy().astype(float)
    place = next(
        i for i, found in enumerate(zip(rows["split"].to_pylist(), rows["label"], strict=True))
        if found[0] == split and found[1].is_valid
    )  # fmt: skip
    values[place] = float("inf")
    at = rows.schema.get_field_index(what)
    spoilt = rows.set_column(at, what, pa.array(values, from_pandas=True))
    home = Home(root=Path(table.uri).parent.parent)
    key = re.escape(rows["request_id"][place].as_py())
    said = f"'{what}' is not finite in 1 row of split '{split}', for example {key}"
    with pytest.raises(TrainingError, match=said):
        fit(weather, write_table(home, "training_set", spoilt), CONFIG, silent)


def test_served_graph_answers_batches_of_any_size(
    flown: Flown, weather: UseCase, table: Table
) -> None:
    """One row at a time, a few, or many: the same numbers."""
    predictor = Predictor(weather, Path(flown.summary["model"]["path"]))
    columns = labelled_rows(weather, read_table(table), "test").columns
    whole = predictor.predict(columns)
    assert len(whole) > 300
    for size in (1, 7, 256):
        part = predictor.predict({name: values[:size] for name, values in columns.items()})
        assert part == pytest.approx(whole[:size], abs=1e-4)
        assert part.dtype == np.float64


def test_preprocessing_survives_its_file(flown: Flown, weather: UseCase, table: Table) -> None:
    """What is read back is what was fitted, and maps rows to the same arrays."""
    text = (Path(flown.summary["model"]["path"]) / "preprocess.json").read_text()
    fitted = Preprocessor.from_json(text)
    assert Preprocessor.from_json(fitted.to_json()) == fitted
    inputs = model_inputs(weather, labelled_rows(weather, read_table(table), "test").columns)
    numeric, categorical = fitted.transform(inputs)
    assert numeric.dtype == np.float32
    assert categorical.dtype == np.int64
    assert numeric.shape == (len(categorical), fitted.shape.numeric)
    assert np.isfinite(numeric).all()


def test_unknown_category_and_missing_value(flown: Flown, weather: UseCase, table: Table) -> None:
    """An airport never seen has code 0; a missing temperature is the typical one."""
    text = (Path(flown.summary["model"]["path"]) / "preprocess.json").read_text()
    fitted = Preprocessor.from_json(text)
    inputs = model_inputs(weather, labelled_rows(weather, read_table(table), "test").columns)
    known = fitted.transform(inputs)[1]
    assert (known > UNKNOWN).all()
    strange = inputs | {
        "origin": np.full(len(inputs["origin"]), "XXX"),
        "temp_now": np.full(len(inputs["temp_now"]), math.nan),
    }
    numeric, categorical = fitted.transform(strange)
    assert (categorical[:, list(fitted.categories).index("origin")] == UNKNOWN).all()
    assert (numeric[:, fitted.numeric.index("temp_now")] == 0.0).all()


def test_cache_version_follows_a_file_s_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another line in any file of a package is another version; the same content the same."""
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def version() -> str:
        importlib.invalidate_caches()
        code_version.cache_clear()
        return code_version("some_package")

    before = version()
    assert version() == before
    (package / "part.py").write_text("A = 2\n")
    assert version() != before
    (package / "part.py").write_text("A = 1\n")
    assert version() == before
    code_version.cache_clear()
    assert code_version("some_package", libraries=("numpy",)) != before
    assert "some_package" not in sys.modules


def test_cache_version_of_an_unknown_module_is_refused() -> None:
    """A misspelt module would otherwise never change the version."""
    with pytest.raises(DeclarationError, match=r"no module 'tasks\.unheard_of'"):
        code_version("tasks.unheard_of")


def test_the_processes_of_a_local_training_inherit_that_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first of them starts; what a user set stays."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    open_state(use_case="weather")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    open_state(use_case="weather")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def launched(config: dict[str, object]) -> object:
    """What ``pyflyte run --config`` makes of the JSON."""
    context = click.Context(click.Command("flights"))
    return JsonParamType(TrainingConfig).convert(json.dumps(config), None, context)


def sent(config: dict[str, object]) -> object:
    """What a task gets of the values that the console or another client sent."""
    context = FlyteContextManager.current_context()
    literal = TypeEngine.to_literal(context, config, dict, TypeEngine.to_literal_type(dict))
    return TypeEngine.to_python_value(context, literal, TrainingConfig)


@pytest.mark.parametrize("arrived", [launched, sent])
def test_a_key_that_no_config_has_is_refused(
    arrived: Callable[[dict[str, object]], object],
) -> None:
    """A word misspelt must not train the default model; fields left out have their defaults."""
    assert arrived({"epochs": 4}) == TrainingConfig(epochs=4)
    with pytest.raises(TrainingError) as caught:
        arrived({"epoch": 4, "width": 8})
    for part in ("'epoch'", "epochs, batch_size", "leave it out"):
        assert part in str(caught.value)


def test_what_is_no_object_is_called_so() -> None:
    """Its elements are no misspelt fields."""
    with pytest.raises(TrainingError, match=r"the config is \[1\], but must be a JSON object"):
        launched([1])  # type: ignore[arg-type]  # as '--config [1]' has it


@pytest.mark.parametrize("arrived", [launched, sent])
def test_another_model_has_defaults_of_its_own(
    arrived: Callable[[dict[str, object]], object],
) -> None:
    """Where a launch leaves fields out; what it states, and what a whole config holds, stays."""
    config = arrived({"model": "tabm", "width": 8})
    assert config == TrainingConfig(model="tabm", **(DEFAULTS["tabm"] | {"width": 8}))  # type: ignore[arg-type]  # one dict of ints and floats
    whole = TrainingConfig(model="tabm", dropout=0.4)
    assert arrived(dataclasses.asdict(whole)) == whole


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("epochs", -1, "at least 1"),
        ("epochs", 4.5, "a whole number"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", math.inf, "above 0 and finite"),
        ("weight_decay", -0.1, "at least 0"),
        ("weight_decay", math.nan, "at least 0"),
        ("width", 0, "at least 1"),
        ("layers", 0, "at least 1"),
        ("dropout", 1.0, "below 1"),
        ("patience", -1, "at least 0"),
    ],
)
def test_a_hyper_parameter_out_of_its_bounds_is_refused(
    field: str, value: float, rule: str
) -> None:
    """Before anything runs, with field, rule and value."""
    with pytest.raises(TrainingError) as caught:
        launched({field: value})
    for part in (field, rule, repr(value)):
        assert part in str(caught.value)
