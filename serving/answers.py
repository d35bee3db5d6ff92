"""Answers of one request, and how each protocol says them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from serving.tensors import pack

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from serving.answered import Answered


class Output(NamedTuple):
    """A V2 output tensor [n]."""

    name: str
    datatype: str
    data: Sequence[Any]


def output_types(task: str, *, stored: bool = True) -> dict[str, str]:
    """Datatypes of a V2 answer's tensors by name; ``stored``: to a question by entity, whose
    features come from the store."""
    told = {"prediction_id": "BYTES"}
    if stored:
        told |= {"prediction_time": "BYTES", "stale": "BOOL"}
    if task == "binary":
        return {"probability": "FP64", **told, "decision": "BOOL"}
    return {"value": "FP64", **told}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What is recorded of n answers, and what only their caller is told.

    ``missing`` [n]: views without a living row; ``unknown`` [n]: categorical inputs whose value
    the training part never held. ``copy_age``: age in seconds of the server's copy of the store.
    ``fallback`` [n]: why the fallback answered, empty where the model did; None: it never did.
    """

    use_case: UseCase
    answered: Answered
    views: Sequence[str]
    missing: Sequence[Sequence[str]]
    unknown: Sequence[Sequence[str]]
    stale: Sequence[bool]
    threshold: float
    copy_age: float
    fallback: Sequence[Sequence[str]] | None = None

    @property
    def decisions(self) -> list[bool]:
        """Whether each probability reaches the model's threshold."""
        return [score >= self.threshold for score in self.answered.scores.tolist()]

    def v1(self) -> bytes:
        """The V1 protocol's body."""
        return orjson.dumps(
            {
                "model": self.use_case.name,
                "version": self.answered.version,
                "certificate": self.answered.certificate,
                "predictions": self._predictions(),
            }
        )

    def _predictions(self) -> list[dict[str, Any]]:
        told, binary = self.answered, self.use_case.task == "binary"
        name = "probability" if binary else "value"
        unit = self.use_case.unit
        rows: list[dict[str, Any]] = []
        for i, (prediction_id, score) in enumerate(
            zip(told.ids, told.scores.tolist(), strict=True)
        ):
            row = {"prediction_id": prediction_id, name: score}
            if binary:
                row["decision"] = score >= self.threshold
            else:
                row["unit"] = unit
            row["unknown"] = self.unknown[i]
            rows.append(row)
        if told.tick is None or told.ages is None:
            return rows
        tick, ages = told.tick, told.ages.tolist()
        for i, row in enumerate(rows):
            row["prediction_time"] = told.prediction_times[i]
            row["tick"] = tick
            row["stale"] = self.stale[i]
            # orjson writes NaN as null: no living row.
            row["ages_minutes"] = dict(zip(self.views, ages[i], strict=True))
            row["missing"] = self.missing[i]
            row["store_age_seconds"] = self.copy_age
            if self.fallback is not None:
                row["fallback"] = self.fallback[i]
        return rows

    def outputs(self) -> list[Output]:
        """The V2 protocol's tensors."""
        told, binary = self.answered, self.use_case.task == "binary"
        outputs = [
            Output("probability" if binary else "value", "FP64", told.scores.tolist()),
            Output("prediction_id", "BYTES", told.ids),
        ]
        if told.tick is not None:
            times = [time.isoformat() for time in told.prediction_times]
            outputs.append(Output("prediction_time", "BYTES", times))
            outputs.append(Output("stale", "BOOL", self.stale))
        if binary:
            outputs.append(Output("decision", "BOOL", self.decisions))
        return outputs

    def parameters(self) -> dict[str, str]:
        """What else a V2 answer says: a tensor holds no null, and gRPC's parameters no fraction, so
        the ages (null: no living row) and the names are JSON texts."""
        told = self.answered
        parameters = {
            "certificate": told.certificate,
            "unknown": orjson.dumps(self.unknown).decode(),
        }
        if told.tick is not None and told.ages is not None:
            ages = [dict(zip(self.views, row, strict=True)) for row in told.ages.tolist()]
            parameters["tick"] = told.tick.isoformat()
            parameters["ages_minutes"] = orjson.dumps(ages).decode()
            parameters["missing"] = orjson.dumps(self.missing).decode()
            parameters["store_age_seconds"] = f"{self.copy_age:.3f}"
            if self.fallback is not None:
                parameters["fallback"] = orjson.dumps(self.fallback).decode()
        if self.use_case.task != "binary":
            parameters["unit"] = self.use_case.unit
        return parameters

    def v2(self, request_id: str, binary: set[str] | bool) -> tuple[bytes, int | None]:
        """The V2 protocol's body, and how many bytes of it are JSON, where binary data follow."""
        parts: list[bytes] = []
        outputs = []
        for name, datatype, data in self.outputs():
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(data)]}
            if binary is True or (binary and name in binary):
                parts.append(pack(datatype, data))
                output["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                output["data"] = data
            outputs.append(output)
        header = orjson.dumps(
            {
                "id": request_id or self.answered.ids[0],
                "model_name": self.use_case.name,
                "model_version": self.answered.version,
                "outputs": outputs,
                "parameters": self.parameters(),
            }
        )
        if not parts:
            return header, None
        return b"".join([header, *parts]), len(header)
