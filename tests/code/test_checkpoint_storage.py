"""Checkpoints in object storage: sent in parts, read back, refused where they are damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from s3_server import s3_server
from toy import toy_training_set
from training_helpers import Job, StoppedError, finished, flown, same, weights

from feature_repo.errors import CheckpointError
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.training.checkpoint_files import checkpoints_in, upload


@pytest.fixture
def bucket() -> Iterator[s3fs.S3FileSystem]:
    """An S3 server with an empty bucket for checkpoints."""
    with s3_server() as fs:
        yield fs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


def stop_in(home: Path, table: Table) -> str:
    """A training stopped after its sixteenth step; the folder of its checkpoints."""
    with pytest.raises(StoppedError):
        flown(Job(home=home, table=table, every=5, stop_after=16))
    fs = fsspec.filesystem("s3")
    return f"s3://{max(fs.glob('flights/checkpoints/toy/*/*'))}"


def test_a_training_goes_on_from_object_storage(
    table: Table, tmp_path: Path, bucket: s3fs.S3FileSystem
) -> None:
    """Damaged, the newest is set aside and the one before is taken; the end is the same."""
    plain = flown(Job(home=tmp_path / "home", table=table))
    folder = stop_in(tmp_path / "home", table)
    newest, *_ = checkpoints_in(folder)
    (file,) = bucket.glob(f"{newest}/__0_*")
    content = bytearray(bucket.cat_file(file))
    content[100] ^= 1
    bucket.pipe_file(file, bytes(content))
    said: list[str] = []
    again = flown(Job(home=tmp_path / "home", table=table, every=5), said)
    assert same(weights(again), weights(plain))
    assert any("goes on from step 12, checkpoint s3://" in line for line in said)
    assert any(f"checkpoint {newest}: file" in line for line in said)
    assert again.checkpoint.startswith(folder)
    assert bucket.exists(f"{folder}/damaged-{newest.rsplit('/', 1)[-1]}/manifest.json")
    assert bucket.exists(f"{folder}/finished")
    kept = [uri.rsplit("-", 1)[-1] for uri in checkpoints_in(folder)]
    assert kept[:2] == ["00000036", "00000035"]


def test_two_ranks_each_send_their_own_files(
    table: Table, tmp_path: Path, bucket: s3fs.S3FileSystem
) -> None:
    """And another training begins with what they sent, on one rank."""
    config = dataclasses.replace(Job.config, sharding="full")
    job = Job(home=tmp_path / "two", table=table, config=config)
    two = finished(job, tmp_path / "out", 2)
    files = {Path(name).name for name in bucket.ls(two["checkpoint"], detail=False)}
    assert files == {".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json"}
    more = dataclasses.replace(config, epochs=4)
    there = Job(home=tmp_path / "one", table=table, config=more, resume_from=two["checkpoint"])
    assert len(flown(there).curve) == 4


def test_a_large_file_is_sent_in_parts_and_read_back(
    tmp_path: Path, bucket: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3's ETag of an upload in parts names their number; a change on the way is an error."""
    large = bytes(range(256)) * (101 * 4096)  # 101 MiB
    (tmp_path / "__0_0.distcp").write_bytes(large)
    upload(tmp_path, ["__0_0.distcp"], "s3://flights/large")
    told: dict[str, Any] = bucket.info("flights/large/__0_0.distcp")
    assert told["size"] == len(large)
    assert told["ETag"].strip('"').endswith("-3")
    put = bucket.put_file

    def changed(here: str, there: str) -> None:
        put(here, there)
        bucket.pipe_file(there, b"other")

    monkeypatch.setattr(bucket, "put_file", changed)
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp was changed on its way"):
        upload(tmp_path, ["__0_0.distcp"], "s3://flights/large")


def test_storage_that_is_gone_costs_checkpoints_only(
    table: Table, tmp_path: Path, bucket: s3fs.S3FileSystem
) -> None:
    """Said each time, and the training comes to its end."""
    plain = flown(Job(home=tmp_path / "home", table=table))
    bucket.rm("flights", recursive=True)
    said: list[str] = []
    fitted = flown(Job(home=tmp_path / "home", table=table), said)
    assert same(weights(fitted), weights(plain))
    assert fitted.checkpoint == ""
    told = [line for line in said if "was not written, the training goes on: FileNotFound" in line]
    assert len(told) == 3
