"""What experiments came to, as tables and verdicts and as JSON-able values. (P)

Invariant: nothing is rounded but in the tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from conformance.fairness.experiments import Part, Row
from conformance.replay import suite


def text(parts: Sequence[Part]) -> str:
    """A table for each, and then all figures with their bounds."""
    tables = [f"{part.title}\n{_table(part.rows)}" for part in parts if part.rows]
    return "\n".join([*tables, suite.text([verdict for part in parts for verdict in part.verdicts])])


def values(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        {"title": part.title, "rows": part.rows, "verdicts": [verdict.values() for verdict in part.verdicts]}
        for part in parts
    ]


def met(parts: Sequence[Part]) -> bool:
    return all(verdict.met for part in parts for verdict in part.verdicts)


def _table(rows: Sequence[Row]) -> str:
    """Columns in the order in which they first come; what has parts of its own is left to the JSON."""
    columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, dict)))
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "".join(
        "  "
        + line[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(width)}" for cell, width in zip(line[1:], widths[1:], strict=True))
        + "\n"
        for line in lines
    )


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if value != value:
        return ""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or math.isinf(size) else f"{value:.2f}" if size >= 1 else f"{value:.3f}"
