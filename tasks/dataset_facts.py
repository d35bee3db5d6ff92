"""What the dataset cards tell, gathered from declarations, contracts, stored tables and ledger."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from feature_repo import offline
from feature_repo.contract import FeatureSpec, FeatureView, UseCase
from feature_repo.errors import AirworthyError
from feature_repo.freshness import Freshness, measure
from feature_repo.home import Home
from feature_repo.lineage import tables_of
from feature_repo.offline import Version
from feature_repo.profile import profile
from feature_repo.tables import Table, named, read_table
from serving import ledger
from serving.artifact import MODEL_JSON
from tasks.dataset_text import DatasetFacts, VersionLine, page_of, unread
from tasks.quarantine import quarantine_counts

if TYPE_CHECKING:
    from pandera import Check

Lines = Mapping[str, Sequence[VersionLine]]
RAW_HEAD = ("column", "type", "nulls", "rules")
VIEW_HEAD = ("column", "type", "nulls", "rules", "meaning")
TYPES = {"int64": "whole number", "float64": "number", "str": "string", "object": "string"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What one version of a use case's data consists of, and the versions up to it.

    ``tables`` and ``views`` are stored tables by name; ``quarantine`` are the counts of
    ``tasks.quarantine``; ``versions`` are those of each table or view.
    """

    tables: list[Table]
    views: list[Table]
    as_of: datetime
    quarantine: Mapping[str, Any]
    versions: Lines


def stored_now(home: Home, use_case: UseCase) -> Stored:
    """The newest version of the offline store, with what the ones before it say of the same data.

    Raises:
        StateError: there is no version yet.
    """
    now = offline.newest(home, use_case)
    kept = offline.versions(home, use_case)
    broken = {v.number: quarantine_counts(read_table(v.quarantine)) for v in kept if v.quarantine}
    versions = {
        table.name: [
            _line(version, named([*version.built.tables, *version.built.views], table.name), broken)
            for version in kept
        ]
        for table in (*now.built.tables, *now.built.views)
    }
    return Stored(
        tables=now.built.tables,
        views=now.built.views,
        as_of=now.until,
        quarantine=broken[max(broken)] if broken else {},
        versions=versions,
    )


def _line(version: Version, table: Table, broken: Mapping[int, Mapping[str, Any]]) -> VersionLine:
    checks = broken[version.number]["checks"] if version.number in broken else None
    return VersionLine(
        number=version.number,
        created=f"{version.created:%Y-%m-%d %H:%M:%S} UTC",
        until=_iso(version.until),
        rows=table.rows,
        digest=table.digest,
        quarantined=None if checks is None else _rows_of(checks, table.name),
    )


def _rows_of(checks: Sequence[Mapping[str, Any]], table: str) -> int:
    """Rows that broke a rule of a table; one that broke two counts twice."""
    return sum(check["rows"] for check in checks if check["table"] == table)


def gather(home: Home, use_case: UseCase, stored: Stored) -> list[DatasetFacts]:
    """The facts of each raw table, then of each feature view.

    Raises:
        AirworthyError: the use case names no contract of a raw table.
    """
    fresh = {f.log: f for f in measure(use_case, stored.tables, stored.as_of)}
    models = models_of(home, use_case)
    raw = [_raw(home, use_case, stored, table, fresh) for table in stored.tables]
    return raw + [_view(use_case, stored, view, fresh, models) for view in use_case.views]


def _raw(
    home: Home, use_case: UseCase, stored: Stored, table: Table, fresh: Mapping[str, Freshness]
) -> DatasetFacts:
    contracts = use_case.schemas() if use_case.schemas else {}
    if table.name not in contracts:
        raise AirworthyError(
            f"use case {use_case.name!r} names no contract of raw table {table.name!r}; give "
            "UseCase.schemas a Pandera model of it"
        )
    schema = contracts[table.name].to_schema()
    readers = [v for v in use_case.views if table.name in tables_of(v.log)]
    logs = dict.fromkeys(view.log.name for view in readers)
    downstream = [
        f"event log `{log}`, which feeds "
        + ", ".join(_link("feature view", v.name) for v in readers if v.log.name == log)
        for log in logs
    ]
    return DatasetFacts(
        name=table.name,
        kind="raw table",
        use_case=use_case.name,
        owner=use_case.owner,
        description=inspect.getdoc(contracts[table.name]) or "",
        table=table,
        columns=profile(table),
        contract_head=RAW_HEAD,
        contract=[_raw_row(name, column) for name, column in schema.columns.items()],
        key=list(schema.unique or ()),
        freshness=[fresh[log] for log in logs],
        as_of=_iso(stored.as_of),
        upstream=_sources(home, use_case, table.name),
        downstream=downstream or [unread()],
        versions=stored.versions[table.name],
        quarantine=[
            (c["column"], c["check"], c["rows"])
            for c in stored.quarantine.get("checks", ())
            if c["table"] == table.name
        ],
    )


def _raw_row(name: str, column: Any) -> tuple[str, ...]:
    kind = str(column.dtype)
    checks: list[Check] = column.checks or []
    rules = [str(check.error or check.name) for check in checks]
    rules += [column.description] if column.description else []
    kind = "instant, UTC" if kind.startswith("datetime64") else TYPES.get(kind, kind)
    return f"`{name}`", kind, "allowed" if column.nullable else "none", "; ".join(rules) or "any"


def _view(
    use_case: UseCase, stored: Stored, view: FeatureView, fresh: Mapping[str, Freshness],
    models: Sequence[str],
) -> DatasetFacts:  # fmt: skip
    table = named(stored.views, view.name)
    names = [spec.name for spec in view.features]
    keys = [(f"`{key}`", "string", "none", "key", "entity key") for key in view.entity.keys]
    keys.append(("`event_timestamp`", "instant, UTC", "none", "key", "the tick of the row"))
    return DatasetFacts(
        name=view.name,
        kind="feature view",
        use_case=use_case.name,
        owner=use_case.owner,
        description=(
            f"{len(names)} features of the entity {view.entity.name} "
            f"({', '.join(view.entity.keys)}) over the event log {view.log.name}: one row for each "
            "tick at which one of them may change."
        ),
        table=table,
        columns=profile(
            table, (*view.entity.keys, "event_timestamp", *names),
            ages={spec.name for spec in view.features if spec.as_age},
        ),
        contract_head=VIEW_HEAD,
        contract=[*keys, *map(_feature_row, view.features)],
        key=(*view.entity.keys, "event_timestamp"),
        freshness=[fresh[view.log.name]],
        as_of=_iso(stored.as_of),
        upstream=[
            f"event log `{view.log.name}`, which reads "
            + ", ".join(_link("raw table", name) for name in tables_of(view.log))
        ],
        downstream=[f"feature service `{use_case.service}`", *models],
        versions=stored.versions[view.name],
        quarantine=(),
    )  # fmt: skip


def _feature_row(spec: FeatureSpec) -> tuple[str, ...]:
    window = "" if spec.aggregation == "last" else ", all up to the tick"
    window = f", {spec.window.total_seconds() / 3600:g} h" if spec.window else window
    rule = f"{spec.aggregation} of {spec.value}{window}"
    bounds = "an instant" if spec.as_age else f"{spec.bounds[0]:g} to {spec.bounds[1]:g}"
    return f"`{spec.name}`", "number", "allowed", f"{rule}; {bounds}", spec.description


def _link(kind: str, name: str) -> str:
    return f"[{name}]({page_of(kind, name)})"


def _iso(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _sources(home: Home, use_case: UseCase, table: str) -> list[str]:
    """Files that the newest certified model's data came from; where none is, the contract."""
    told = [e for e in ledger.entries(home) if e["kind"] == "certificate"]
    told = [e for e in told if e["facts"].get("use_case") == use_case.name]
    files = told[-1]["facts"].get("sources", []) if told else []
    named_so = [f for f in files if f["name"].split(".")[0] == table]
    if not named_so:
        return [f"a source's file `{table}.csv`, `.csv.zip` or `.parquet`, held to the contract"]
    return [f"`{f['name']}`, {f['bytes']:,} bytes, sha256 `{f['sha256'][:12]}`" for f in named_so]


def models_of(home: Home, use_case: UseCase) -> list[str]:
    """Certified models of this declaration, newest first, the champion named as such."""
    entries = [e for e in ledger.entries(home) if e["facts"].get("use_case") == use_case.name]
    champions = [e["subject"] for e in entries if e["kind"] == "promotion"]
    lines = []
    for entry in reversed([e for e in entries if e["kind"] == "certificate"]):
        subject, facts = entry["subject"], entry["facts"]
        path = home.root / "models" / use_case.name / subject / MODEL_JSON
        if not path.exists():
            continue  # cleaned away: nothing reads the view through it
        if json.loads(path.read_text()).get("declaration") != use_case.declaration:
            continue
        state = "champion" if champions[-1:] == [subject] else "certified"
        state = state if facts.get("passed", True) else "refused by the gate"
        version = facts.get("version", subject[:12])
        lines.append(f"model {use_case.name} {version} ({state}), `{facts['certificate']}`")
    return lines or ["no certified model yet"]
