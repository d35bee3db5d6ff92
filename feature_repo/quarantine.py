"""Rows that break their table's contract, each with its reasons; the others go on without them.

A row that breaks a rule of its Pandera schema goes to the quarantine with one reason for each
rule; of rows that share a key the first stays. Too many bad rows end in a ``SourceError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feature_repo.errors import SourceError
from feature_repo.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa
    import polars as pl

QUARANTINE = ("table", "row", "column", "check", "reason", "value")


def split_quarantine(
    raw: pl.DataFrame, model: type[pa.DataFrameModel], limit: float, file: str, table: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that keep the contract, typed, and the quarantine of those that do not.

    Raises:
        SourceError: a column is missing or of another type, or more than ``limit`` of the
            rows break a rule.
    """
    from feature_repo.parsing import parse

    schema = model.to_schema()
    columns: dict[str, Any] = dict(schema.columns)
    missing = [name for name in columns if name not in raw.columns]
    if missing:
        raise SourceError(_lacks_columns(raw, missing, file))
    typed, bad = parse(raw, columns, file, table)
    typed = typed[~typed.index.isin(bad["row"] - 1)]
    for find in (broken_checks, _repeated_keys):
        found = find(typed, schema, table)
        bad = _join(bad, found)
        typed = typed[~typed.index.isin(found["row"] - 1)]
    bad = bad.sort_values(["row", "column"], ignore_index=True)
    refuse_too_many(bad, raw.height, limit, file)
    return typed, bad


def _lacks_columns(raw: pl.DataFrame, missing: list[str], file: str) -> str:
    name = raw.columns[0]
    shown = (f"row {i} ({name} = {cell})" for i, cell in enumerate(raw[name].head(3), start=1))
    return (
        f"file {file}: column {', '.join(map(repr, missing))} is missing (rule required column) in "
        f"all {raw.height:,} rows, for example {', '.join(shown)}; the file has the columns "
        f"{', '.join(raw.columns)}; add what is missing, or rename the one that holds it"
    )


def quarantine_frame(**columns: Any) -> pd.DataFrame:
    """A quarantine from its columns; without any, an empty one."""
    import pandas as pd

    frame = pd.DataFrame(columns or {name: [] for name in QUARANTINE})
    types = dict.fromkeys(QUARANTINE, "object") | {"row": "int64"}
    return frame.astype(types)[list(QUARANTINE)]


def _join(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    parts = [part for part in (one, other) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else one


def broken_checks(frame: pd.DataFrame, schema: Any, table: str) -> pd.DataFrame:
    """Rows that fail a value check, found by Pandera in one lazy pass."""
    from pandera.errors import SchemaErrors

    try:
        _without_key(schema).validate(frame, lazy=True)
    except SchemaErrors as exc:
        _refuse_rowless(exc.failure_cases, table)
        cases = _row_cases(exc.failure_cases.dropna(subset=["index"]), frame, schema)
        return quarantine_frame(
            table=table, row=cases["index"].astype("int64") + 1, column=cases["column"],
            check=cases["check"].astype(str), value=cases["failure_case"].astype(str),
            reason=[
                f"{c} = {v} breaks {k}"
                for c, v, k in zip(
                    cases["column"], cases["failure_case"], cases["check"], strict=True
                )
            ],
        )  # fmt: skip
    return quarantine_frame()


def _refuse_rowless(cases: pd.DataFrame, table: str) -> None:
    """Stop where a rule could not be asked, or answered once for all rows: it would seem that none
    breaks it. Rows with a value of another type may be why, and go first.

    Raises:
        SourceError: names table, column, rule and what it said.
    """
    untyped = cases["check"].astype(str).str.contains("dtype(", regex=False)
    rowless = cases["index"].isna()
    if (untyped & ~rowless).any():
        return
    for case in cases[rowless & ~untyped].to_dict("records"):
        raise SourceError(
            f"table {table!r}, {case['column']}: the rule {case['check']} names no row "
            f"({case['failure_case']}), so it cannot be said which ones break it; mend the rule: "
            "it answers true or false for each row"
        )


def _row_cases(cases: pd.DataFrame, frame: pd.DataFrame, schema: Any) -> pd.DataFrame:
    """Pandera's failure cases with one for each row that breaks a rule over several columns,
    instead of one for each column of the frame."""
    import pandas as pd

    whole = cases["schema_context"] == "DataFrameSchema"
    parts = [cases[~whole]]
    for check in schema.checks:
        broken = cases[whole & (cases["check"] == check.name)].drop_duplicates("index")
        columns = rule_columns(check, schema)
        values = frame.loc[broken["index"].astype("int64"), columns]
        texts = [" ".join(map(str, row)) for row in values.itertuples(index=False)]
        parts.append(broken.assign(column="+".join(columns), failure_case=texts))
    return pd.concat(parts)


def rule_columns(check: Any, schema: Any) -> list[str]:
    """The columns that a rule over several of them needs: those that its description names,
    joined by ``+``; where it names none, all of the schema."""
    named = (check.description or "").split("+")
    return named if {*named} <= {*schema.columns} else list(schema.columns)


def _without_key(schema: Any) -> Any:
    """The schema without its key: Pandera's uniqueness check would report both copies."""
    import copy

    plain = copy.deepcopy(schema)
    plain.unique = None
    return plain


def _repeated_keys(frame: pd.DataFrame, schema: Any, table: str) -> pd.DataFrame:
    """Rows whose key an earlier row has."""
    key = list(schema.unique or ())
    if not key:
        return quarantine_frame()
    later = frame.loc[frame.duplicated(key, keep="first"), key]
    name = "+".join(key)
    values = [" ".join(map(str, row)) for row in later.itertuples(index=False)]
    return quarantine_frame(
        table=table, row=later.index.to_numpy() + 1, column=name, check="unique",
        reason=[f"an earlier row has the same {name}"] * len(later), value=values,
    )  # fmt: skip


def refuse_too_many(bad: pd.DataFrame, rows: int, limit: float, file: str) -> None:
    """Stop when more than ``limit`` of a file's rows are in the quarantine.

    Raises:
        SourceError: names file, column, rule, counts and three example rows.
    """
    count = bad["row"].nunique()
    if count <= limit * rows:
        return
    rules = bad.drop_duplicates(["row", "column", "check"])[["column", "check"]].value_counts()
    raise SourceError(
        f"file {file}: {count:,} of {rows:,} rows ({count / rows:.1%}) break its contract, more "
        f"than the limit of {limit:.1%}; "
        + "; ".join(
            f"column {rule[0]!r}, rule {rule[1]}: {counted(number, 'row')}"
            for rule, number in zip(rules.index[:3].tolist(), rules.tolist(), strict=False)
        )
        + f"; for example {examples(bad)}; mend the file, or raise quarantine_limit in the "
        "use case's declaration (feature_repo/<name>/features.py)"
    )


def examples(bad: pd.DataFrame) -> str:
    """Three rows of a quarantine as a text."""
    shown = bad.drop_duplicates("row").head(3)
    return ", ".join(
        f"row {row} ({column} = {value})"
        for row, column, value in zip(shown["row"], shown["column"], shown["value"], strict=True)
    )
