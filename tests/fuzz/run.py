"""Fuzz what reads bytes from outside: `make fuzz ARGS="--seconds 600 --only sse"`. (IO)

Each target runs in processes of its own, two at a time, under libFuzzer where atheris is installed and under Hypothesis
where it is not. Inputs that reach something new gather in .cache/fuzz; `--keep` puts those that suffice to reach all of
it into the repository. The code is 1 if there was a finding, and the input lies in .cache/fuzz/found.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
CACHE = ROOT / ".cache" / "fuzz"
TARGETS = sorted(path.stem for path in (ROOT / "tests" / "fuzz" / "targets").glob("*.py"))
COVERED = importlib.util.find_spec("atheris") is not None
LONGEST = {"sse": 6000, "configuration": 4096, "extproc": 4096}
"""Bytes of an input; of other targets 2048."""
KEPT = 200_000


class Result(NamedTuple):
    """``edges``: branches of the product that were reached, where that is known."""

    name: str
    ok: bool
    executions: int
    seconds: float
    inputs: int
    edges: str

    def __str__(self) -> str:
        said = "nothing found" if self.ok else f"A FINDING, see {CACHE / f'{self.name}.log'}"
        return (
            f"{self.name:14} {self.executions:>10,} executions  {self.seconds:5.0f} s  {self.inputs:>5} inputs  "
            f"{self.edges:>5} edges  {said}"
        )


def main(arguments: Sequence[str]) -> int:
    asked = _parsed(arguments)
    if not COVERED:
        print("atheris is not installed here: Hypothesis tries inputs near those that are kept, blind to coverage")
    with ThreadPoolExecutor(asked.jobs) as pool:
        results = [pool.submit(_fuzzed, name, asked.seconds) for name in asked.only]
        for each in results:
            print(each.result(), flush=True)
    if asked.keep and COVERED:
        for name in asked.only:
            print(f"{name:14} {_keep(name):>6} bytes kept")
    return int(not all(each.result().ok for each in results))


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--only", type=_names, default=TARGETS, help="targets, comma-separated: " + ", ".join(TARGETS))
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="choose the corpus anew from all inputs found")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    unknown = set(text.split(",")) - set(TARGETS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no target {', '.join(sorted(unknown))}")
    return text.split(",")


def _fuzzed(name: str, seconds: int) -> Result:
    grown, found = CACHE / name, CACHE / "found"
    for folder in (grown, found, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    command = ["tests.fuzz.plain", name, str(seconds)]
    if COVERED:
        command = [
            "tests.fuzz.one", name, str(grown), str(CORPUS / name), f"-max_total_time={seconds}", "-timeout=25",
            f"-max_len={LONGEST.get(name, 2048)}", "-rss_limit_mb=2048", f"-artifact_prefix={found}/{name}-",
        ]  # fmt: skip
    log, began = CACHE / f"{name}.log", time.monotonic()
    with log.open("wb") as out:
        code = subprocess.run(_python(command), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace")
    tried = [
        int(number)
        for number in re.findall(r"^#(\d+)\s|^Done (\d+) runs", text, re.MULTILINE)
        for number in number
        if number
    ]
    edges = re.findall(r" cov: (\d+)", text) or ["?"]
    inputs = sum(1 for folder in (grown, CORPUS / name) for _ in folder.iterdir())
    return Result(name, not code, max(tried, default=0), time.monotonic() - began, inputs, edges[-1])


def _keep(name: str) -> int:
    """Replace a target's corpus by the fewest inputs that reach as much. The sum of their sizes."""
    chosen = CACHE / f"{name}.kept"
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir()
    command = ["tests.fuzz.one", name, "-set_cover_merge=1", str(chosen), str(CACHE / name), str(CORPUS / name)]
    subprocess.run(_python(command), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(CORPUS / name)
    (CORPUS / name).mkdir()
    size = 0
    for path in sorted(chosen.iterdir(), key=lambda path: path.stat().st_size):
        size += path.stat().st_size
        if size > KEPT:
            return size - path.stat().st_size
        shutil.copyfile(path, CORPUS / name / path.name[:12])
    return size


def _python(command: Sequence[str]) -> list[str]:
    return ["nice", "-n", "19", sys.executable, "-m", *command]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
