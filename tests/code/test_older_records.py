"""Records of the time before there was a fallback are read as they were written."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.parquet as pq
from log_helpers import BEGINNING, WEATHER, as_answered, prediction

from feature_repo.home import Home
from serving import frames
from serving.answer_files import listed
from serving.outcomes import READ
from serving.predictions import columns_since, find
from serving.sealing import seal_ended
from serving.segments import PredictionLog, segments


def as_before(path: Path) -> None:
    """Rewrite a segment in the first form: no fallback in its frames, another name of the form."""
    data = path.read_bytes()
    found = frames.scan(data)
    written = []
    for number, (start, end) in enumerate(found.frames):
        payload = data[start:end]
        size = int.from_bytes(payload[:4], "little")
        document = orjson.loads(payload[4 : 4 + size])
        if number == 0:
            document["format"] = "airworthy.predictions/v1"
        else:
            document = document[:-1]
        written.append(frames._frame(orjson.dumps(document), payload[4 + size :]))
    path.write_bytes(b"".join(written))


def test_older_records_are_found_in_a_segment_and_once_they_are_sealed(tmp_path: Path) -> None:
    home, made = Home(root=tmp_path), prediction()
    log = PredictionLog(home, WEATHER)
    log.record(as_answered([made], WEATHER))
    folder = home.root / "predictions" / WEATHER.name
    log.close()
    (segment,) = segments(folder)
    as_before(segment)
    assert find(home, made.id) == made
    (sealed,) = seal_ended(home, WEATHER.name)
    # As an older program sealed it: without the column, and without a CRC in its name.
    table = pq.read_table(sealed, partitioning=None)
    older = sealed.with_name(".".join(sealed.name.split(".")[:4]) + ".parquet")
    pq.write_table(table.drop_columns(["fallback"]), older)
    sealed.unlink()
    assert listed(folder)[1] == []
    assert find(home, made.id) == made
    (told,) = columns_since(home, WEATHER.name, BEGINNING, READ)
    assert told.column_names == list(READ)
    assert told["fallback"].to_pylist() == [""]
