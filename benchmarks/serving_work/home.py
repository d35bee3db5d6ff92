"""What is served and asked: a home with a certified flights model and a filled online store, and
files of request bodies with the scores that every contender must give.

    python -m benchmarks.serving_work.home FOLDER

The model is the champion of ``$AIRWORTHY_HOME`` (``.airworthy``) where there is one of this
program's declaration, certified anew; otherwise an untrained network of the same size.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from feature_repo.errors import AirworthyError
from feature_repo.fallback import fallback_reasons, request_only
from feature_repo.home import Home, digest_of, folder_digests, new_folder
from feature_repo.inputs import Inputs, input_columns
from feature_repo.packed import STATE, StoreState, entity_key, microseconds, row_format
from feature_repo.registry import get_use_case
from serving import revocations
from serving.artifact import FALLBACK, MODEL, MODEL_JSON, PREPROCESS, read_model
from serving.certificate import issue
from serving.dsse import signing_key
from serving.predictor import Predictor
from serving.preprocess import Preprocessor
from serving.releases import read_current
from serving.tensors import pack
from tasks.ledger import append

if TYPE_CHECKING:
    from feature_repo.contract import UseCase

SIZES = (1, 64)
BODIES = {1: 256, 64: 32}  # different ones, by batch size
TICK = datetime(2013, 11, 5, 14, 0, tzinfo=timezone.utc)
CATEGORIES = {"carrier": 16, "origin": 3, "dest": 105, "local_hour": 20, "local_weekday": 7}
WIDTH, LAYERS = 256, 3  # of the flights' MLP
Rng = np.random.Generator


def make(folder: Path) -> None:
    """Model, store and bodies below ``folder``; ``facts.json`` says what they are."""
    home, use_case = Home(root=folder / "home"), get_use_case("flights")
    made = folder / "model"
    champion = _champion(use_case)
    if champion is None:
        _untrained(made, use_case)
    else:
        made.mkdir(parents=True)
        for name in (MODEL, PREPROCESS, MODEL_JSON):
            shutil.copy(champion / name, made / name)
        if fallback_reasons(use_case):
            shutil.copytree(champion / FALLBACK, made / FALLBACK)
    model = _certify(home, use_case, made)
    rng = np.random.default_rng(0)
    preprocessor = Preprocessor.from_json((model / PREPROCESS).read_text())
    flights = _flights(rng, preprocessor)
    _fill(use_case, flights, rng, home)
    expected = _write_bodies(folder / "bodies", use_case, preprocessor, model, flights)
    facts = {
        "model": str(model), "home": str(home.root), "expected": expected,
        "which": "untrained" if champion is None else f"champion {model.name[:12]}",
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(facts))


def rows_of_store(use_case: UseCase, flights: list[dict[str, Any]], rng: Rng) -> dict[bytes, bytes]:
    """Packed rows of the entities of ``flights``, one in twenty left out."""
    packed: dict[bytes, bytes] = {}
    at = [microseconds(TICK - timedelta(minutes=15))]
    for view in use_case.views:
        form = row_format(view)
        for flight in flights:
            key = form.key(entity_key({name: flight[name] for name in view.entity.keys}))
            values = rng.gamma(2.0, 10.0, (1, len(view.features)))
            ages = [place for place, spec in enumerate(view.features) if spec.as_age]
            values[:, ages] = TICK.timestamp() - 60 * values[:, ages]
            if key not in packed and rng.random() < 0.95:
                (packed[key],) = form.pack(at, at, values)
    return packed


def _fill(use_case: UseCase, flights: list[dict[str, Any]], rng: Rng, home: Home) -> None:
    """The home's own store, in sqlite; others are filled from it."""
    from feature_repo.online_rows import open_rows

    state = StoreState(
        use_case=use_case.name, declaration=use_case.declaration, content="", tick=TICK
    )
    store = open_rows(str(home.root / "online"), use_case.service)
    store.replace(rows_of_store(use_case, flights, rng), state.pack())
    assert store.get([STATE])[0] is not None
    store.close()


def _champion(use_case: UseCase) -> Path | None:
    """The champion's directory where this program can serve it."""
    home = Home(root=Path(os.environ.get("AIRWORTHY_HOME", ".airworthy")).resolve())
    try:
        folder, _ = read_current(home, use_case.name)
        if fallback_reasons(use_case) and not (folder / FALLBACK).is_dir():
            return None
        return folder if read_model(folder).declaration == use_case.declaration else None
    except AirworthyError:
        return None


def _untrained(folder: Path, use_case: UseCase) -> None:
    """Model files of a network of the champion's size, its preprocessing fitted on noise."""
    import torch

    from serving.network import Calibrated, builder_of, export_onnx

    rng, names = np.random.default_rng(1), input_columns(use_case)
    columns: dict[str, Any] = {}
    for place, name in enumerate(names.numeric):
        # As the flights' are: counts, readings and means by turns, three in five ever missing.
        columns[name] = np.round(rng.gamma(2.0, 10.0, 5000), (0, 1, 15)[place % 3])
        columns[name][: 250 * (place % 5 < 3)] = np.nan
    for name in names.categorical:
        columns[name] = np.array([f"{i % CATEGORIES[name]:02d}" for i in range(5000)], dtype=object)
    preprocessor = Preprocessor.fit(names, columns)
    torch.manual_seed(1)
    options = {"width": WIDTH, "layers": LAYERS, "dropout": 0.0}
    network = builder_of(use_case, "mlp").network(preprocessor.shape, options)
    folder.mkdir(parents=True)
    export_onnx(Calibrated(network, 1.0, 0.0, True).eval(), preprocessor.shape, folder / MODEL)
    (folder / PREPROCESS).write_text(preprocessor.to_json())
    (folder / MODEL_JSON).write_text(json.dumps(_description(use_case, names)))
    if fallback_reasons(use_case):
        _untrained(folder / FALLBACK, request_only(use_case))


def _description(use_case: UseCase, names: Inputs) -> dict[str, Any]:
    return {
        "use_case": use_case.name, "task": use_case.task, "label": use_case.label,
        "unit": use_case.unit, "threshold": 0.5, "declaration": use_case.declaration,
        "inputs": {"numeric": names.numeric, "categorical": names.categorical},
        "views": [view.name for view in use_case.views],
        "lag_seconds": int(use_case.lag.total_seconds()),
        "tick_seconds": int(use_case.tick.total_seconds()),
    }  # fmt: skip


def _certify(home: Home, use_case: UseCase, made: Path) -> Path:
    """The directory of the certified model, signed by the home's own development key."""
    now, key = datetime.now(timezone.utc), signing_key(home)
    subject = digest_of(folder_digests(made))
    folder = home.path("models", use_case.name, subject)
    with new_folder(folder) as temporary:
        shutil.copytree(made, temporary, dirs_exist_ok=True)
    revocations.complete(home, key, {}, now)
    predicate = {
        "use_case": use_case.name, "gate": {"passed": True, "verdicts": []},
        "features": {
            "declaration": use_case.declaration, "views": [v.name for v in use_case.views],
        },
    }  # fmt: skip
    certificate = issue(key, folder, predicate, timedelta(days=1), now)
    told = {"use_case": use_case.name, "certificate": certificate.id}
    append(home, "certificate", subject, told)
    return folder


def _flights(rng: Rng, preprocessor: Preprocessor) -> list[dict[str, Any]]:
    """Requests by entity: of known carriers and airports, at one tick of the store."""
    known, flights = preprocessor.categories, []
    for _ in range(3000):
        starts = TICK + timedelta(minutes=int(rng.integers(30, 300)))
        ends = starts + timedelta(minutes=int(rng.integers(60, 360)))
        named = {name: str(rng.choice(known[name])) for name in ("carrier", "origin", "dest")}
        flights.append(
            {
                **named, "flight": str(rng.integers(1, 2000)),
                "tailnum": f"N{rng.integers(10000, 12000)}",
                "distance": int(rng.integers(100, 3000)),
                "scheduled_departure": starts.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "scheduled_arrival": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "prediction_time": "2013-11-05T14:05:00Z",
            }
        )  # fmt: skip
    return flights


def _write_bodies(
    folder: Path, use_case: UseCase, preprocessor: Preprocessor, model: Path,
    flights: list[dict[str, Any]],
) -> dict[int, list[float]]:  # fmt: skip
    """Bodies by kind and size; the scores of each size's first one."""
    rng, predictor, expected = np.random.default_rng(2), Predictor(use_case, model), {}
    texts = list(preprocessor.categories.values())
    for size in SIZES:
        for number in range(BODIES[size]):
            # Values that the training part held, so with its digits.
            numeric = np.stack([rng.choice(knots, size) for knots in preprocessor.knots], axis=1)
            words = [[str(rng.choice(values)) for values in texts] for _ in range(size)]
            asked = [flights[i] for i in rng.integers(0, len(flights), size)]
            for kind, (body, header) in _bodies(numeric, words, asked):
                _write(folder / f"{kind}-{size}", number, body, header)
            if number == 0:
                columns = list(zip(*words, strict=True))
                scored = predictor.predict_vectors(numeric, columns)
                expected[size] = scored.scores.tolist()
    return expected


def _bodies(
    numeric: Any, words: list[list[str]], asked: list[Mapping[str, Any]]
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """A request in each protocol: its body, and how many bytes of it are a JSON header (0: all)."""
    rows = zip(numeric.tolist(), words, strict=True)
    instances = [{"numeric": values, "categorical": texts} for values, texts in rows]
    yield "v1", (orjson.dumps({"instances": instances}), 0)
    yield "entities", (orjson.dumps({"instances": asked}), 0)
    flat = [text for row in words for text in row]
    data = {"numeric": ("FP64", list(numeric.shape)), "categorical": ("BYTES", [len(words), 5])}
    tensors = [{"name": n, "datatype": kind, "shape": s} for n, (kind, s) in data.items()]
    content = [numeric.ravel().tolist(), flat]
    told = [{**t, "data": values} for t, values in zip(tensors, content, strict=True)]
    yield "v2json", (orjson.dumps({"inputs": told}), 0)
    parts = [numeric.tobytes(), pack("BYTES", flat)]
    told = [
        {**tensor, "parameters": {"binary_data_size": len(part)}}
        for tensor, part in zip(tensors, parts, strict=True)
    ]
    header = orjson.dumps({"inputs": told, "parameters": {"binary_data_output": True}})
    yield "v2", (b"".join([header, *parts]), len(header))


def _write(folder: Path, number: int, body: bytes, header: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:03d}").write_bytes(body)
    with (folder / "index").open("a") as index:
        index.write(f"{number:03d} {header}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
