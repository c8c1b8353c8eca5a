"""The conformance suite against a real engine, llama.cpp: as it is, and through the gateway in front of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engines.llamacpp import LlamaCpp
from tests.process import ROOT, serve


def conformance(report: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    command = [
        sys.executable,
        "-m",
        "gateway.cli",
        "conformance",
        "--report",
        str(report),
        "--limit",
        "120",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert "Traceback" not in done.stderr, done.stderr
    assert report.exists(), done.stderr
    return json.loads(report.read_bytes()), done.stdout


def musts(report: dict[str, Any]) -> set[str]:
    """The musts that failed."""
    return {each["case"] for each in report["results"] if each["kind"] == "failed" and each["level"] == "must"}


@pytest.fixture(scope="module")
def engine() -> Any:
    with LlamaCpp() as running:
        yield running


def test_llamacpp_is_as_its_adapter_assumes(engine: LlamaCpp, tmp_path: Path) -> None:
    report, said = conformance(tmp_path / "report.json", "--url", engine.url)
    assert report["server"]["engine"] == "llamacpp"
    assert report["profiles"] == ["openai", "engine/llamacpp"]
    assert not musts(report), said
    assert report["counts"]["passed"] > 150


def test_a_gateway_in_front_of_it_keeps_the_contract(engine: LlamaCpp, tmp_path: Path) -> None:
    with serve("--backend", f"llamacpp={engine.url}") as gateway:
        report, said = conformance(
            tmp_path / "report.json", "--url", gateway.url, "--engine", "gateway", "--behind", engine.url,
            "--profile", "openai", "--profile", "gateway",
        )  # fmt: skip
    assert not musts(report), said
    assert report["counts"]["passed"] > 200
