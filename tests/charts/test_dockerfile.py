"""The image, without anything that builds images: its steps by their words, and what they install by the wheel. (IO)"""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gateway
from tests.process import ROOT


def steps() -> list[tuple[str, str]]:
    """(instruction, the rest) with continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in pairs]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for step in steps():
        if step[0] == "FROM":
            found.append([])
        if found:
            found[-1].append(step)
    return found


def words(instruction: str, stage: int = -1) -> list[str]:
    return [rest for word, rest in stages()[stage] if word == instruction]


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    sources = [source for rest in words("COPY", 0) for source in shlex.split(rest)[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in let_through, source
    assert let_through == set(sources)


@pytest.mark.parametrize("name", [".git/config", ".env", "tests/x.py", "id_rsa", "charts/x", ".venv/bin/python"])
def test_nothing_else_reaches_the_builder(name: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert not any(
        fnmatch.fnmatch(name, line[1:]) or name.startswith(f"{line[1:]}/") for line in lines if line.startswith("!")
    )


def test_everything_that_is_installed_is_checked_by_its_hash() -> None:
    runs = " ".join(words("RUN", 0))
    assert "--require-hashes -r requirements/run.txt" in runs
    assert "--no-deps --no-build-isolation ." in runs
    lock = (ROOT / "requirements" / "run.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)==\S+((?: ;[^\\]*)? \\\n    --hash=sha256:[0-9a-f]{64})?", lock, re.MULTILINE)
    assert len(pinned) > 30
    assert not [name for name, hashed in pinned if not hashed]
    assert {"hatchling", "kubernetes"} <= {name for name, _ in pinned}


def test_what_runs_is_nobody_in_particular_and_writes_nothing() -> None:
    assert len(stages()) == 2
    assert words("USER") == ["65532:65532"]
    assert words("ENTRYPOINT") == ['["infer-gateway"]']
    variables = dict(pair.split("=", 1) for pair in shlex.split(" ".join(words("ENV"))))
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
    assert variables["HOME"] == "/tmp"
    assert variables["PATH"].startswith("/opt/infer-gateway/bin:")
    assert "compileall" in " ".join(words("RUN", 0))
    assert "apt-get" not in " ".join(rest for _, rest in steps())
    order = [word for word, _ in stages()[-1]]
    assert max(i for i, word in enumerate(order) if word == "RUN") < order.index("USER")
    assert any("org.opencontainers.image.licenses" in label for label in words("LABEL"))


def test_the_same_python_builds_and_runs() -> None:
    images = [rest.split()[0] for word, rest in steps() if word == "FROM"]
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim", images[0])


def test_no_secret_is_built_in() -> None:
    for word, rest in steps():
        assert word != "ADD"
        assert not re.search(r"(?i)token|password|secret|api_?key", rest)


def test_the_wheel_has_all_of_it(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert gateway.__version__ in wheel.name
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (entry,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "infer-gateway = gateway.cli:main" in content.read(entry).decode()
    for package in ("gateway", "protocols", "adapters", "conformance"):
        listed = subprocess.run(["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True).stdout.split(
            "\n"
        )
        there = [name for name in listed if name and (ROOT / name).exists()]
        assert there
        assert not [name for name in there if name not in names]
