"""A reader who types what a page says, in a directory that looks like a checkout, on ports that are free. (IO)

What stands at 8080, 9090 and 50051 when a page begins is a gateway that the pages share; what a page starts itself
takes its place. Servers run until the page ends.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

from tests.process import ROOT
from tests.whole.parrot_engine import install

SERVER = re.compile(r"infer-gateway (serve|demo|simulate)\b")
ENDPOINT = "10.0.0.7:8000"
"""As pages call any endpoint."""
_AT = re.compile(r"127\.0\.0\.1:(\d+)")
_PORT = re.compile(r"--port (\d+)")
_LISTENS = re.compile(r"(?:--port |--(?:http|grpc|admin|ext-proc) 127\.0\.0\.1:)(\d+)")
_VARIABLE = re.compile(r"(?:export )?([A-Z_]+)=(\S*)")
_LISTENERS = {"http": "8080", "grpc": "50051", "admin": "9090"}
_READY_S, _COMMAND_S = 30.0, 60.0
_HIDDEN = (".venv", ".git", ".cache", "examples")


class Failed(Exception):
    """A command that did not do what its page says."""


class Reader:
    """``ports``: those on a page → those here; ``words``: whatever else reads differently here."""

    def __init__(self, home: Path, ports: Mapping[str, str], words: Mapping[str, str]) -> None:
        self.home, self.ports, self.words = home, dict(ports), words
        self.after: dict[str, Callable[[], object]] = {}
        """What others do when a command has been typed."""
        self._shared = set(ports)
        self._servers: list[subprocess.Popen[bytes]] = []
        path = f"{home / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "HOME": str(home), "CURL_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        self.environment = {
            **os.environ,
            **settings,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{home / 'site'}",
            "COLUMNS": "100",
        }
        _furnish(home)

    # --- what is typed ------------------------------------------------------------------------------------------------

    def here(self, text: str) -> str:
        """``text`` as it has to read here."""
        text = _AT.sub(lambda at: f"127.0.0.1:{self._port(at[1])}", text)
        return _PORT.sub(lambda at: f"--port {self._port(at[1])}", text)

    def _port(self, port: str) -> str:
        if port not in self.ports and port != "0":
            with socket.socket() as held:
                held.bind(("127.0.0.1", 0))
                self.ports[port] = str(held.getsockname()[1])
        return self.ports.get(port, port)

    def type(self, text: str) -> str:
        """What the command says. A server is started and waited for. Raises Failed."""
        for word, instead in self.words.items():
            text = text.replace(word, instead)
        if ENDPOINT in text:
            text = text.replace(ENDPOINT, self._endpoint())
        if variable := _VARIABLE.fullmatch(text.strip()):
            self.environment[variable[1]] = variable[2]
            return ""
        if SERVER.search(text):
            return self._start(re.sub(r"\s+#[^'\"\n]*$", "", text).rstrip().removesuffix("&"))
        said = self._run(["bash", "-eo", "pipefail", "-c", self.here(text)])
        self.after.get(text, str)()
        return said

    def run_python(self, code: str) -> str:
        return self._run([sys.executable, "-c", self.here(code)])

    def _endpoint(self) -> str:
        """One that the gateway on the page has."""
        with urlopen(f"http://127.0.0.1:{self.ports['9090']}/api/endpoints", timeout=10) as answer:
            found: str = json.load(answer)[-1]["endpoint"]
        self.ports.setdefault(found.rpartition(":")[2], found.rpartition(":")[2])
        return found

    def _run(self, argv: list[str]) -> str:
        out = subprocess.PIPE
        try:
            done = subprocess.run(
                argv, cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, timeout=_COMMAND_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise Failed(f"did not end within {_COMMAND_S:g} s: {argv[-1]}\n{(late.stdout or b'').decode()}") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise Failed(f"exit code {done.returncode}: {argv[-1]}\n{said[-3000:]}")
        return said

    # --- servers ------------------------------------------------------------------------------------------------------

    def _start(self, text: str) -> str:
        """Where no address is given it listens wherever there is room, and is what the usual ports mean from now on."""
        for port in _LISTENS.findall(text):  # what the page starts is its own
            if port in self._shared:
                self._shared.discard(port)
                self.ports.pop(port)
        own = [name for name in _LISTENERS if "simulate" not in text and f"--{name} " not in text]
        if "simulate" not in text:
            for name in own:
                self.ports.pop(_LISTENERS[name], None)
            text += "".join(f" --{name} 127.0.0.1:0" for name in own)
        here = self.here(text)
        with (self.home / "server.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {here.strip()}"], cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._servers.append(process)
        for name, at in self._ready(process, here).items():
            if name in own:
                self.ports[_LISTENERS[name]] = at.rpartition(":")[2]
        return here

    def _ready(self, process: subprocess.Popen[bytes], text: str) -> dict[str, str]:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        until, line = time.monotonic() + _READY_S, b""
        while not line.endswith(b"\n") and time.monotonic() < until and process.poll() is None:
            line += process.stdout.read() or b""
            time.sleep(0.01)
        words = line.decode().split()
        if words[:1] != ["ready"]:
            raise Failed(f"does not get ready: {text}\n{line!r}\n{(self.home / 'server.log').read_text()[-3000:]}")
        return dict(word.split("=", 1) for word in words[1:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._servers):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._servers:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _furnish(home: Path) -> None:
    """The checkout's files by links, examples as copies, programs by this interpreter; curl fails where HTTP does."""
    home.mkdir(exist_ok=True)
    for entry in ROOT.iterdir():
        if entry.name not in _HIDDEN and not entry.name.startswith("."):
            (home / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "examples", home / "examples")
    bin_ = home / ".venv" / "bin"
    bin_.mkdir(parents=True)
    for name, words in (("python", ""), ("python3", ""), ("infer-gateway", "-m gateway.cli")):
        (bin_ / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (bin_ / name).chmod(0o755)
    (home / "site").mkdir()
    install(home / "site")
    (home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 30\n")
