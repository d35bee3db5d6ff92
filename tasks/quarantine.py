"""How many rows the data contract set aside, by table and rule."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def quarantine_counts(quarantine: pa.Table) -> dict[str, Any]:
    """``{"rows": n, "checks": [{table, column, check, rows}, …]}``; a row that broke two rules
    counts once in ``rows`` and once in each check."""
    broken: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for entry in quarantine.select(["table", "row", "column", "check"]).to_pylist():
        broken[entry["table"], entry["column"], entry["check"]].add(entry["row"])
    checks = [
        {"table": table, "column": column, "check": check, "rows": len(rows)}
        for (table, column, check), rows in sorted(broken.items())
    ]
    rows = {(key[0], row) for key, numbers in broken.items() for row in numbers}
    return {"rows": len(rows), "checks": checks}
