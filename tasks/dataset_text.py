"""The words and tables of a dataset card, as Markdown; an empty field is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from feature_repo.errors import AirworthyError
from feature_repo.freshness import Freshness, hours
from feature_repo.profile import ColumnProfile
from feature_repo.tables import Table
from tasks.page import markdown_table

SHOWN = 20  # versions in the table; a stream makes many


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionLine:
    """A version of the offline store: when it was made, the tick up to which it holds, the
    dataset's rows and digest in it, and rows that its ingestion put into quarantine (None: it
    ingested nothing)."""

    number: int
    created: str
    until: str
    rows: int
    digest: str
    quarantined: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """All that a card tells of one raw table or feature view.

    ``contract`` are the cells of its table under ``contract_head``. ``upstream`` and
    ``downstream`` are Markdown, one item a line.
    """

    name: str
    kind: Literal["raw table", "feature view"]
    use_case: str
    owner: str
    description: str
    table: Table
    columns: Sequence[ColumnProfile]
    contract_head: Sequence[str]
    contract: Sequence[Sequence[str]]
    key: Sequence[str]
    freshness: Sequence[Freshness]
    as_of: str
    upstream: Sequence[str]
    downstream: Sequence[str]
    versions: Sequence[VersionLine]
    quarantine: Sequence[tuple[str, str, int]]

    @property
    def page(self) -> str:
        """Name of its file."""
        return page_of(self.kind, self.name)


def page_of(kind: str, name: str) -> str:
    """File name of a dataset's page; a table and a view may share a name."""
    return f"{'table' if kind == 'raw table' else 'view'}-{name}.html"


def refuse_empty(facts: DatasetFacts) -> None:
    """Every field that the card tells must be filled; a quarantine may be empty.

    Raises:
        AirworthyError: names the first empty one.
    """
    fields: dict[str, Any] = {
        "owner": facts.owner,
        "description": facts.description,
        "contract": facts.contract,
        "key": facts.key,
        "columns": facts.columns,
        "freshness promise": facts.freshness or facts.downstream == [_UNREAD],
        "upstream": facts.upstream,
        "downstream": facts.downstream,
        "versions": facts.versions,
        "as of": facts.as_of,
    }
    fields |= {
        f"contract of {row[0]}, {head}": cell
        for row in facts.contract
        for head, cell in zip(facts.contract_head, row, strict=True)
    }
    for name, value in fields.items():
        if not value or (isinstance(value, str) and not value.strip()):
            raise AirworthyError(
                f"dataset card of {facts.kind} {facts.name!r}: {name} is empty; fill it in the "
                "use case's declaration (feature_repo), since no dataset goes without a full card"
            )


_UNREAD = "read when the data are ingested; no event log reads it"


def unread() -> str:
    """What lies downstream of a raw table that no event log reads."""
    return _UNREAD


def sections(facts: DatasetFacts) -> str:
    """The card's body; ``{distributions}`` and ``{quarantine}`` are where its pictures go."""
    parts = [
        f"# {facts.name}",
        facts.description,
        f"A {facts.kind} of the use case [{facts.use_case}](index.html). **Owner:** {facts.owner}. "
        f"**Version** {facts.versions[-1].number}, as of {facts.as_of}, {facts.table.rows:,} rows.",
        f"## Freshness\n\n{freshness(facts.freshness)}",
        "## Lineage\n\nUpstream:\n\n" + _items(facts.upstream),
        "Downstream:\n\n" + _items(facts.downstream),
        f"## Contract\n\n{markdown_table(facts.contract_head, facts.contract)}\n\n"
        f"Key, which no two rows share: {', '.join(f'`{k}`' for k in facts.key)}.",
        f"## Columns\n\n{_columns(facts.columns)}",
        "## Distributions\n\n{distributions}",
        f"## Versions\n\n{_versions(facts)}",
    ]
    if facts.kind == "raw table":
        parts.append(f"## Quarantine\n\n{_quarantine(facts)}")
    return "\n\n".join(parts) + "\n"


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def freshness(measured: Sequence[Freshness]) -> str:
    """The promise of each log, and whether it is kept."""
    if not measured:
        return "No event log reads it, so nothing is promised."
    rows = [
        [f.log, ", ".join(f.tables), hours(f.promise_minutes), hours(f.age_minutes),
         f.newest or "none", "kept" if f.kept else "**broken**"]
        for f in measured
    ]  # fmt: skip
    head = ("event log", "raw tables", "promised within", "age", "newest event known at", "promise")
    return markdown_table(head, rows)


def _columns(columns: Sequence[ColumnProfile]) -> str:
    rows = [
        [f"`{c.name}`", c.type, f"{c.nulls:,}", f"{c.null_share:.2%}", *_range(c)] for c in columns
    ]
    head = ("column", "type", "nulls", "share of nulls", "smallest", "largest", "distinct values")
    return markdown_table(head, rows)


def _range(column: ColumnProfile) -> list[str]:
    low, high = column.low, column.high
    if column.kind in {"number", "age"} and low:
        unit = " min ago" if column.kind == "age" else ""
        low, high = (f"{float(value):.6g}{unit}" for value in (low, high))
    if column.kind == "instant":
        low, high = low[:16], high[:16]
    return [low or "-", high or "-", f"{column.distinct:,}" if column.kind == "string" else "-"]


def _versions(facts: DatasetFacts) -> str:
    rows = [
        [v.number, v.created, v.until, f"{v.rows:,}", f"`{v.digest[:12]}`"]
        for v in reversed(facts.versions[-SHOWN:])
    ]
    table = markdown_table(("version", "created", "holds up to", "rows", "digest"), rows)
    older = len(facts.versions) - SHOWN
    return f"{table}\n\nand {older:,} older ones." if older > 0 else table


def _quarantine(facts: DatasetFacts) -> str:
    known = [v for v in facts.versions if v.quarantined is not None]
    if not known:
        return "No version has recorded a quarantine."
    told = f"Rows set aside by the ingestion of version {known[-1].number}: "
    told += f"{known[-1].quarantined:,}."
    if facts.quarantine:
        told += "\n\n" + markdown_table(("column", "check", "rows"), facts.quarantine)
    return told + "\n\n{quarantine}"


def index(use_case: str, description: str, facts: Sequence[DatasetFacts]) -> str:
    """The body of the page that lists all cards of a use case."""
    first = facts[0]
    rows = [
        [f"[{f.name}]({f.page})", f.kind, f"{f.table.rows:,}", len(f.columns), _kept(f)]
        for f in facts
    ]
    promises = {one.log: one for f in facts for one in f.freshness}
    return "\n\n".join(
        [
            f"# Datasets of {use_case}",
            description,
            f"**Owner:** {first.owner}. **Version** {first.versions[-1].number}, as of "
            f"{first.as_of}.",
            markdown_table(("dataset", "kind", "rows", "columns", "freshness"), rows),
            f"## Freshness\n\n{freshness(list(promises.values()))}",
        ]
    )


def _kept(facts: DatasetFacts) -> str:
    if not facts.freshness:
        return "nothing promised"
    broken = [f.log for f in facts.freshness if not f.kept]
    return f"**broken**: {', '.join(broken)}" if broken else "kept"
