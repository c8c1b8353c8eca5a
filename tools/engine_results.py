"""What the conformance suite found at real engines, kept small and written into docs/engines.md. (IO)

    python tools/engine_results.py            write the section again from tests/recordings/reports

Invariant: every figure comes from a report of a run against a real server; nothing is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "recordings" / "reports"
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
KINDS = ("passed", "deviated", "failed", "noted", "skipped")
_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp", "tgi": "TGI"}
_LONGEST = 160
_ABOUT = """\
`make conformance-vllm` writes this for vLLM on a CPU (`ARGS="--version 0.26.0"` for another release), for llama.cpp
`python tools/real_engines.py llamacpp`. Both serve a tiny model of random weights. Of an engine by itself known
deviations are told apart; of a gateway nothing is forgiven that the engine lets through."""

Document = dict[str, Any]


def condensed(report: Document, through: Document | None = None, wheel: str = "") -> Document:
    """What is kept of a run: what was tested, when, how often what, and the cases that did not hold, with why.

    ``through``: the report of the same engine behind the gateway. ``wheel``: the package it came in, whose release
    stands for that of an engine that was built without one. No address and no path is kept.
    """
    told = report["server"]["version"]
    return {
        "engine": report["server"]["engine"],
        "version": wheel.rpartition(" ")[2] if "unknown" in told else told,
        "wheel": wheel,
        "date": datetime.fromtimestamp(report["started"], UTC).strftime("%Y-%m-%d"),
        "direct": _part(report),
        **({"gateway": _part(through)} if through is not None else {}),
    }


def merged(first: Document, second: Document) -> Document:
    """The first run, with what it skipped and the second, of the same server started otherwise, did not."""
    asked = {result["case"]: result for result in second["results"] if result["kind"] != "skipped"}
    results = [asked.get(r["case"], r) if r["kind"] == "skipped" else r for r in first["results"]]
    return {**first, "results": results, "seconds": first["seconds"] + second["seconds"]}


def held(report: Document) -> list[str]:
    """The musts that failed and are not known of the engine."""
    return [r["case"] for r in report["results"] if r["kind"] == "failed" and r["level"] == "must"]


def _part(report: Document) -> Document:
    results = report["results"]
    counts = {kind: sum(result["kind"] == kind for result in results) for kind in KINDS}
    odd = [result for result in results if result["kind"] in ("failed", "deviated")]
    notable = [{key: result[key] for key in ("case", "kind", "level")} | {"why": _why(result)} for result in odd]
    return {
        "profiles": report["profiles"],
        "seconds": round(report["seconds"], 1),
        "counts": counts,
        "notable": sorted(notable, key=lambda each: (each["kind"] != "failed", each["case"])),
    }


def _why(result: Document) -> str:
    """The message in one line, without addresses, paths and what ends a table's cell."""
    text = str(result["message"])
    if result["kind"] == "deviated":  # the reason that is known, then what came of it
        text = text.partition(" [")[0]
    text = re.sub(r"https?://[^\s\"']+|(?<![\w/])/(?:\w[\w.-]*/){2,}[\w.-]*", "…", text)
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def keep(document: Document, folder: Path = KEPT) -> Path:
    """One file for an engine and its release; a later run replaces it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['engine']}-{re.sub(r'[^0-9A-Za-z.]+', '-', document['version'])}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return path


def section(documents: list[Document]) -> str:
    """The Markdown between the markers."""
    return "\n".join(_lines(sorted(documents, key=_order)))


def _order(document: Document) -> tuple[str, list[int]]:
    return document["engine"], [-int(number) for number in re.findall(r"\d+", document["version"])]


def _lines(documents: list[Document]) -> Iterator[str]:
    yield ""
    yield from (_ABOUT, "")
    yield "| Engine | Release | On | Against | Passed | Deviates | Failed | Noted | Skipped | Took |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for document in documents:
        for where, part in _parts(document):
            counts = " | ".join(str(part["counts"][kind]) for kind in KINDS)
            name, release = _name(document), _release(document)
            yield f"| {name} | {release} | {document['date']} | {where} | {counts} | {part['seconds']:g} s |"
    for document in documents:
        for where, part in _parts(document):
            if part["notable"]:
                yield from ("", f"{_name(document)} {_release(document)}, {where}:", "")
                yield from ("| | Level | Cases | Why |", "|---|---|---|---|", *_notable(part["notable"]))
    yield ""


def _notable(found: list[Document]) -> Iterator[str]:
    """One row for each reason."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in found:
        rows.setdefault((each["kind"], each["level"], each["why"]), []).append(f"`{each['case']}`")
    for (kind, level, why), cases in rows.items():
        yield f"| {kind} | {level} | {', '.join(cases)} | {why} |"


def _parts(document: Document) -> list[tuple[str, Document]]:
    named = (("the engine", "direct"), ("a gateway in front", "gateway"))
    return [(where, document[key]) for where, key in named if key in document]


def _name(document: Document) -> str:
    return _NAMES.get(document["engine"], document["engine"])


def _release(document: Document) -> str:
    """With the package, unless it is named alike, and what was left out."""
    wheel = "" if document["wheel"].endswith(document["version"]) else f" ({document['wheel']})"
    return document["version"] + wheel + (f", not asked: {document['without']}" if document.get("without") else "")


def kept(folder: Path = KEPT) -> list[Document]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]


def written(page: str, documents: list[Document]) -> str:
    """The page with its section made anew. Raises ValueError if it lacks the markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{section(documents)}\n{END}{after}"


def main() -> int:
    PAGE.write_text(written(PAGE.read_text(), kept()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
