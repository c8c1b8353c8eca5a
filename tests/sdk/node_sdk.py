"""The official Node SDKs, installed from the lock file and driven from Python: a call told, what came of it back. (IO)

Invariant: npm runs once for each content of the lock file, in the cache and never in the tree.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.process import ROOT

HERE = Path(__file__).resolve().parent / "node"
PINNED = ("package.json", "package-lock.json", ".npmrc")
PACKAGES = ("openai", "openai-6")
"""The current major release, and the one before it, which many still use."""
OLDEST_NODE = 20
INSTALL_S = 180.0
CALL_S = 30.0


def installed() -> Path:
    """The directory whose ``node_modules`` has what the lock file names.

    Skips the test where there is no Node, or where npm cannot reach what it would install.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node and npm are not installed")
    if _major(node) < OLDEST_NODE:
        pytest.skip(f"Node is older than {OLDEST_NODE}")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in PINNED)).hexdigest()
    directory = ROOT / ".cache" / f"npm-{digest[:16]}"
    if not directory.exists():
        _install(npm, directory)
    return directory


def _major(node: str) -> int:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.removeprefix("v").partition(".")[0])


def _install(npm: str, directory: Path) -> None:
    """All of it or nothing: beside its place first, then moved."""
    directory.parent.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="npm-unfinished-", dir=directory.parent))
    try:
        for name in PINNED:
            shutil.copy(HERE / name, fresh)
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--loglevel=error")
        options: Any = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": INSTALL_S}
        subprocess.run([npm, "ci", *quiet], cwd=fresh, check=True, **options)
        if not directory.exists():
            fresh.rename(directory)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm could not install the Node SDKs: {error} {error.stderr}")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class NodeSdk:
    """One Node process with one release of the SDK. Calls go one after another."""

    def __init__(self, directory: Path, package: str) -> None:
        self.package = package
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            ["node", str(HERE / "driver.cjs"), str(directory), package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.versions = self._line()

    def __call__(
        self, url: str, call: str, *arguments: object, take: str = "value", options: Any = None, **how: object
    ) -> dict[str, Any]:
        """What came of ``client.call(*arguments)`` of a client of the gateway at ``url``.

        ``options``: more of the client, by the SDK's own names; it tries once unless they say otherwise. ``take`` and
        ``how``: see the driver.
        """
        client = {"baseURL": f"{url}/v1", "apiKey": "unused", "maxRetries": 0, "timeout": 20_000, **(options or {})}
        job = {"client": client, "call": call, "arguments": arguments, "take": take, **how}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        """The next thing it says. A call that does not end ends the process, and fails here."""
        limit = threading.Timer(CALL_S, self._process.kill)
        limit.start()
        try:
            line = self._process.stdout.readline()
        finally:
            limit.cancel()
        self._log.seek(0)
        assert line, f"Node said nothing more:\n{self._log.read().decode(errors='replace')}"
        said = json.loads(line)
        assert isinstance(said, dict)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
