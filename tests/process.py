"""Programs as a user runs them: started, waited for by their ready line, stopped by their process id. (IO)

Leaving a `Program`'s block stops it if it still runs and asserts that it ended as it should: the expected exit code, no
traceback on stderr, and no secret in anything that it has said (`tests.secrets`).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import secrets

ROOT = Path(__file__).resolve().parent.parent
READY_S = 20.0
"""Far above what any program needs, for machines that are busy with something else."""
STOP_S = 15.0


class Program:
    """One process. ``ready`` is its ready line's words, `name=value` ones by name; ``url`` the http listener's URL."""

    ends_by = signal.SIGTERM

    def __init__(self, *argv: str, exit_code: int = 0, environment: dict[str, str] | None = None) -> None:
        self.argv = argv
        self.exit_code = exit_code
        self.bugs = False
        """Whether its log may tell of some."""
        self.ready: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment or {}
        self._told: list[str] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def start(self) -> Self:
        """Start without waiting; `together` uses it."""
        if self.process is not None:
            return self
        self.process = subprocess.Popen(
            [sys.executable, *self.argv],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        return self

    def wait_ready(self, within_s: float = READY_S) -> Self:
        """Until the line `ready …` has come. Fails with the program's own words if it ends or stays mute instead."""
        line = self._line(time.monotonic() + within_s)
        words = line.split()
        assert words[:1] == ["ready"], f"{self.argv} printed {line!r} instead of a ready line:\n{self.stderr}"
        for word in words[1:]:
            name, _, value = word.partition("=")
            self.ready[name] = value
        return self

    def _line(self, deadline: float) -> str:
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                arrived = selector.select(max(0.0, deadline - time.monotonic()))
                byte = os.read(self.process.stdout.fileno(), 1) if arrived else b""
                if not byte:
                    break
                received += byte
        return received.decode()

    @property
    def stderr(self) -> str:
        """Everything logged so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="replace")

    @property
    def url(self) -> str:
        return f"http://{self.ready['http']}"

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.ready["http"].rpartition(":")
        return host.strip("[]"), int(port)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, within_s: float = STOP_S) -> int:
        """The exit code; negative where a signal ended it. Kills it and fails if it does not end in time."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.argv} did not end within {within_s} s:\n{self.stderr}") from None

    def kill(self) -> None:
        """End it as a crash does, and expect that."""
        self.exit_code = -signal.SIGKILL
        self.signal(signal.SIGKILL)
        self.wait()

    def __enter__(self) -> Self:
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Make sure that nothing is left of it, whatever state it is in."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._told.append(self._rest())
        if not self._log.closed:
            self.log = self.stderr
            self._log.close()
            self._keep_secrets(raising=sys.exc_info()[0] is None)

    def _rest(self) -> str:
        """What it has written to stdout since it was ready."""
        if self.process.stdout.closed:
            return ""
        os.set_blocking(self.process.stdout.fileno(), False)
        rest = self.process.stdout.read() or b""
        self.process.stdout.close()
        return rest.decode(errors="replace")

    def _keep_secrets(self, *, raising: bool) -> None:
        known = secrets.given(self.argv, {**os.environ, **self._environment})
        said = "\n".join((self.log, *self._told, *secrets.written(self.argv)))
        leaks = secrets.found(said, known)
        if leaks and raising:  # not in the place of what has gone wrong before
            raise AssertionError(f"{self.argv} tells secrets:\n" + "\n---\n".join(leaks))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                if kind is None and "admin" in self.ready:
                    self._told += secrets.told(self.ready["admin"])
                self.signal(self.ends_by)
            code = self.wait()
        finally:
            self.close()
        if kind is None:
            assert self.bugs or "Traceback" not in self.log, self.log
            assert code == self.exit_code, f"exit code {code}, not {self.exit_code}:\n{self.log}"


@contextmanager
def together(*programs: Program) -> Iterator[None]:
    """All of them, started side by side and then waited for."""
    with ExitStack() as stack:
        for program in programs:
            stack.callback(program.close)
            program.start()
        for program in programs:
            stack.enter_context(program)
        yield


class InferGateway(Program):
    """`infer-gateway …`, run from the checkout by the interpreter that runs the tests. Ended as by Ctrl-C: what is
    ended otherwise lets clients come for a while.
    """

    ends_by = signal.SIGINT

    def __init__(self, *arguments: str, exit_code: int = 0) -> None:
        super().__init__("-m", "gateway.cli", *arguments, exit_code=exit_code)


ANY_PORT = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")


def serve(*arguments: str, exit_code: int = 0) -> InferGateway:
    """`infer-gateway serve …` on ports of the system's choosing."""
    return InferGateway("serve", *ANY_PORT, *arguments, exit_code=exit_code)


def simulate(engine: str, model: str, *arguments: str) -> InferGateway:
    """`infer-gateway simulate ENGINE …`: quick, so that a test waits for nothing."""
    return InferGateway("simulate", engine, "--port", "0", "--model", model, *arguments)


def run(*arguments: str, within_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """`infer-gateway …` to its end, for commands that end by themselves."""
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL)
    leaks = secrets.found(done.stdout + done.stderr, secrets.given(arguments, os.environ))
    assert not leaks, f"{arguments} tells secrets:\n" + "\n---\n".join(leaks)
    return done


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether something outside comes to hold in time: for what only polling can tell."""
    deadline = time.monotonic() + within_s
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held
