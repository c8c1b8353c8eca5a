"""The outcomes of replays side by side, as JSON-able values and as a table. (P)

Invariant: values are in seconds and fractions; the table alone rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from conformance.replay.policies import ORACLE

_HEAD = (
    "policy",
    "TTFT mean",
    "p50",
    "p90",
    "p99",
    "× oracle",
    "ITL mean",
    "p99",
    "goodput",
    "hit",
    "spread",
    "failed",
)


def text(rows: Sequence[dict[str, Any]]) -> str:
    """One table for each workload and scenario, in the order of the rows."""
    return "\n\n".join("\n".join(_table(name, list(group))) for name, group in groupby(rows, key=title)) + "\n"


def title(row: dict[str, Any]) -> str:
    """What was played, the same for all policies that played it."""
    played = row["scenario"]
    text = f"{row['trace']}: {row['requests']:,} requests at {played['speed']:g}×"
    if scale := row.get("live"):
        text += f", live at a scale of 1:{scale}"
        if row["url"]:
            return f"{text}, {row['url']}"
    text += f", {played['engines']} engines, capacity {played['capacity']:g}"
    if played["gateways"] > 1:
        text += f", {played['gateways']} gateways"
        text += f" telling each other every {played['sharing']:g} s" if played.get("sharing") else ""
    slow = played["slow"]
    if len(slow) == played["engines"] and len(set(slow.values())) == 1:
        text += f", all slow {next(iter(slow.values())):.3g}"
        slow = {}
    for word, faults in (("slow", slow), ("hung from", played["hang"])):
        text += "".join(f", engine {engine} {word} {number:g}" for engine, number in faults.items())
    return text


def _table(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    best = next((row["ttft_s"]["mean"] for row in rows if row["policy"] == ORACLE), math.nan)
    lines = [_HEAD, *(_cells(row, best) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    yield name
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  " + line[0].ljust(len(first)) + "  " + "  ".join(others)


def _cells(row: dict[str, Any], best: float) -> tuple[str, ...]:
    ttft, itl = row["ttft_s"], row["itl_s"]
    ratio = ttft["mean"] / best
    return (
        row["policy"],
        *(_seconds(ttft[name]) for name in ("mean", "p50", "p90", "p99")),
        f"{ratio:.2f}" if ratio == ratio else "",
        f"{itl['mean'] * 1000:.1f} ms",
        f"{itl['p99'] * 1000:.0f} ms",
        f"{row['good']:.3f}",
        f"{row['hit']:.3f}",
        f"{row['spread']:.2f}" if row["spread"] == row["spread"] else "",
        str(row["failed"]) if row["failed"] else "",
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1.0 else f"{value:.3f} s"
