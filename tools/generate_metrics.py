"""Writes the tables of metrics in docs/metrics.md from what the code declares. `--check` only compares. (IO)

    python tools/generate_metrics.py

Prose stands outside of the marks `<!-- metrics: … -->` and `<!-- end -->` and is kept.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gateway import (  # noqa: E402
    tally,
    telemetry_around,
    telemetry_compat,
    telemetry_fleet,
    telemetry_genai,
    telemetry_process,
    telemetry_requests,
)
from gateway.families import Family, number  # noqa: E402

PAGE: Final = ROOT / "docs" / "metrics.md"
_PART: Final = re.compile(r"(<!-- metrics: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MODULES: Final[dict[str, ModuleType]] = {
    "requests": telemetry_requests,
    "fleet": telemetry_fleet,
    "process": telemetry_around,
    "own": telemetry_process,
    "compatible": telemetry_compat,
    "genai": telemetry_genai,
}
_BUCKETS: Final = {
    "duration": tally.DURATION_BOUNDS,
    "ttft": tally.TTFT_BOUNDS,
    "tpot": tally.TPOT_BOUNDS,
    "queue": tally.QUEUE_BOUNDS,
    "decision": tally.DECISION_BOUNDS,
    "tokens": tally.TOKEN_BOUNDS,
}


def sections() -> Iterator[tuple[str, list[Family]]]:
    """What is declared, by the name of its table."""
    for name, module in _MODULES.items():
        yield name, [value for value in vars(module).values() if isinstance(value, Family)]


def table(families: Sequence[Family]) -> str:
    lines = ["| Name | Type | Labels | Meaning | Buckets |", "|---|---|---|---|---|"]
    named = {bounds: name for name, bounds in _BUCKETS.items()}
    for family in families:
        kind = "gauge" if family.kind == "info" else family.kind
        meaning = f"{family.text} {family.note[:1].upper()}{family.note[1:]}.".removesuffix(" .")
        cells = [f"`{family.name}`", kind, ", ".join(family.labels), meaning, named.get(family.bounds, "")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def buckets() -> str:
    lines = ["| Buckets | Upper bounds, in seconds or tokens |", "|---|---|"]
    for name, bounds in _BUCKETS.items():
        lines.append(f"| {name} | {', '.join(number(bound).removesuffix('.0') for bound in bounds)} |")
    return "\n".join(lines) + "\n"


def generated(page: str) -> str:
    """The page with its tables as they are to be. Raises KeyError for a table that nobody knows."""
    tables = {name: table(families) for name, families in sections()} | {"buckets": buckets()}
    written = _PART.sub(lambda found: found[1] + tables.pop(found[2]) + found[3], page)
    if tables:
        raise KeyError(f"no place for {', '.join(tables)}")
    return written


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing, fail where the page is out of date")
    check = arguments.parse_args().check
    page = PAGE.read_text()
    wanted = generated(page)
    if wanted == page:
        return 0
    if check:
        print(f"{PAGE.relative_to(ROOT)} is out of date: run tools/generate_metrics.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
