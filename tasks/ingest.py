"""Ingestion, the part that every use case shares: what a source holds, and where tables go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pandera.pandas as pa
from flytekit import task
from pandera.typing import Series

from feature_repo.errors import SourceError
from feature_repo.home import digest_of, file_digest
from feature_repo.ingest import source_files
from feature_repo.quarantine import QUARANTINE
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, write_raw, write_table
from tasks.resources import SMALL
from tasks.types import SourceFile, State, Step

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow


class Quarantine(pa.DataFrameModel):
    """Rows that broke their contract, one line a broken rule; ``row`` counts from 1."""

    table: Series[str]
    row: Series[int]
    column: Series[str]
    check: Series[str]
    reason: Series[str]
    value: Series[object] = pa.Field(nullable=True)

    class Config:
        """Nothing but these columns."""

        strict = True
        coerce = True


class Source(NamedTuple):
    """Digest of all files of a source, and each of them."""

    digest: str
    files: list[SourceFile]


class Ingested(NamedTuple):
    """Clean tables and the quarantine, in content-addressed storage."""

    tables: list[Table]
    quarantine: Table
    rows_read: int
    rows_quarantined: int
    step: Step


@task(requests=SMALL, retries=2, timeout=timedelta(minutes=10))
def fingerprint(use_case: str, source: str) -> Source:
    """Digest the source's files. Never cached: this is how a change of the data is seen.

    Raises:
        SourceError: the source, or a table's file, is not there.
    """
    return look(use_case, source)


def look(use_case: str, source: str) -> Source:
    """The source's files as they are now; for errors see ``fingerprint``."""
    paths = source_files(source, tuple(t.name for t in get_use_case(use_case).tables))
    files = [SourceFile(p.name, file_digest(p), p.stat().st_size) for _, p in paths]
    return Source(digest_of({f.name: f.sha256 for f in files}), files)


def refuse_changed(use_case: str, source: str, digest: str) -> None:
    """Called once a source was read: what was read must be what ``digest`` names, since the
    cache and the certificate go by it.

    Raises:
        SourceError: a file was changed meanwhile.
    """
    if look(use_case, source).digest != digest:
        raise SourceError(
            f"source {source!r} was changed while it was read: its files are no longer those of "
            "the fingerprint; run again once they are complete (write them aside and rename them "
            "in, so that no reader meets half of an update)"
        )


def store_tables(
    state: State, use_case: str, tables: Mapping[str, pyarrow.Table], quarantine: pd.DataFrame
) -> tuple[list[Table], Table]:
    """Store clean tables, by month, and the quarantine, under their digests."""
    import pyarrow

    home = state.home()
    stored = [
        write_raw(home, declared, tables[declared.name])
        for declared in get_use_case(use_case).tables
    ]
    schema = pyarrow.schema(
        [(name, pyarrow.int64() if name == "row" else pyarrow.string()) for name in QUARANTINE]
    )
    text = quarantine.astype({"value": "string"})
    rows = pyarrow.Table.from_pandas(text, schema=schema, preserve_index=False)
    return stored, write_table(home, "quarantine", rows.replace_schema_metadata())


def quarantined(quarantine: pd.DataFrame) -> int:
    """Rows in the quarantine; one row may have broken several rules."""
    return len(quarantine[["table", "row"]].drop_duplicates())


def ingestion_message(rows_read: int, quarantine: pd.DataFrame) -> str:
    """What an ingestion did, with the quarantine by rule."""
    rules = (quarantine["table"] + "." + quarantine["column"] + " " + quarantine["check"]).tolist()
    listed = ", ".join(f"{n:,} {rule}" for rule, n in sorted(Counter(rules).items()))
    text = f"{rows_read:,} rows read, {quarantined(quarantine):,} quarantined"
    return f"{text} ({listed})" if listed else text
