"""A successor on the same sockets: nobody notices. Sockets that were open before; a service manager that is told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.load import gone, load
from tests.faults.stage import admin
from tests.process import ROOT, InferGateway, Program, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import Client, pool, settings, written


@pytest.fixture(scope="module")
def engine() -> Iterator[InferGateway]:
    with simulate("vllm", "m", "--itl", "0.005") as engine:
        yield engine


class Line:
    """A gateway and those that come after it: ``pids``, the newest last."""

    def __init__(self, gateway: InferGateway) -> None:
        assert gateway.process is not None
        self.gateway = gateway
        self.pids = [gateway.process.pid]

    def restart(self) -> None:
        """Returns when the newest has said that it is ready."""
        before = self.gateway.ready.copy()
        os.kill(self.pids[-1], signal.SIGUSR2)
        self.gateway.wait_ready()
        assert self.gateway.ready == before
        told = re.findall(r"process (\d+) has taken over", self.gateway.stderr)
        assert len(told) == len(self.pids)
        self.pids.append(int(told[-1]))


@contextmanager
def line(*arguments: str) -> Iterator[Line]:
    """All of it has ended afterwards, by a signal to the newest."""
    with serve(*arguments) as gateway:
        found = Line(gateway)
        try:
            yield found
        finally:
            if len(found.pids) > 1:
                os.kill(found.pids[-1], signal.SIGINT)
            if not eventually(lambda: all(gone(pid) for pid in found.pids[1:])):
                os.kill(found.pids[-1], signal.SIGKILL)
                pytest.fail("a successor did not end")
        if len(found.pids) > 1:
            assert gateway.wait() == 0


def readiness(gateway: InferGateway) -> int:
    answer = raw.exchange(admin(gateway), raw.get("/readyz", "connection: close"))
    assert answer is not None
    return answer.status


def test_three_restarts_under_load_and_no_request_is_lost(engine: InferGateway) -> None:
    with line("--backend", f"vllm={engine.url}") as found:
        with load(found.gateway) as clients:
            for _ in range(3):
                found.restart()
                assert readiness(found.gateway) == 200
                assert clients.goes_on()
                assert eventually(lambda: all(gone(pid) for pid in found.pids[:-1]), 20)
                assert clients.goes_on()
        print(f"{sum(clients.answers.values())} answers")


def test_what_runs_finishes_in_the_process_where_it_began(tmp_path: Path) -> None:
    with (
        simulate("vllm", "m", "--itl", "0.05") as slow,
        line("-c", written(tmp_path, pool("m", [slow]))) as found,
        Client(found.gateway) as client,
    ):
        client.send("m", "hi", max_tokens=60, stream=True)
        head = client.reader.head()
        assert head is not None
        assert client.reader.chunk()
        found.restart()
        assert found.gateway.process is not None
        assert found.gateway.process.poll() is None
        for number in (signal.SIGUSR1, signal.SIGHUP):
            found.gateway.signal(number)
        assert eventually(lambda: "configuration reloaded" in found.gateway.stderr)
        assert "failed" not in found.gateway.stderr
        assert b"[DONE]" in client.rest()
        assert found.gateway.wait() == 0


def test_a_successor_that_cannot_serve_changes_nothing(tmp_path: Path, engine: InferGateway) -> None:
    file = written(tmp_path, pool("m", [engine]))
    with serve("-c", file) as gateway, load(gateway) as clients:
        assert gateway.process is not None
        Path(file).write_text("kind: [")
        gateway.signal(signal.SIGUSR2)
        assert eventually(lambda: "ended with exit code 1" in gateway.stderr)
        assert clients.goes_on()
        threads = Path(f"/proc/{gateway.process.pid}/task").iterdir()
        assert not "".join((thread / "children").read_text() for thread in threads)
        assert readiness(gateway) == 200
        Path(file).write_text(pool("m", [engine]))


# -- service managers --------------------------------------------------------------------------------------------------


class Activated(Program):
    """Started as systemd does it: with sockets that listen already as descriptors from 3 on."""

    def __init__(self, sockets: dict[str, socket.socket], *arguments: str, environment: dict[str, str]) -> None:
        super().__init__("-m", "gateway.cli", "serve", *arguments)
        self._sockets = sockets
        self._variables = environment

    ends_by = signal.SIGINT

    def start(self) -> Activated:
        places = " ".join(f"{3 + place}<&{sock.fileno()}" for place, sock in enumerate(self._sockets.values()))
        names = ":".join(self._sockets)
        count = len(self._sockets)
        script = f'exec {places}; LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", script, "sh", sys.executable, *self.argv],
            cwd=ROOT,
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=[sock.fileno() for sock in self._sockets.values()],
        )
        return self


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_inherited_sockets_are_used_and_the_manager_is_told(tmp_path: Path, engine: InferGateway) -> None:
    file = written(tmp_path, pool("m", [engine]), settings(settleTime="100ms"))
    at = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, listening() as http, listening() as other:
        manager.bind(at)
        manager.settimeout(20)
        addresses = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        sockets = {"http": http, "surplus": other}
        with Activated(sockets, "-c", file, *addresses, environment={"NOTIFY_SOCKET": at}) as gateway:
            assert gateway.address == http.getsockname()
            assert f"surplus (127.0.0.1:{other.getsockname()[1]}) is not used" in gateway.stderr
            assert gateway.process is not None
            assert manager.recv(999).decode() == f"READY=1\nMAINPID={gateway.process.pid}"
            gateway.signal(signal.SIGHUP)
            assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(999).decode())
            assert manager.recv(999) == b"READY=1"
            gateway.signal(signal.SIGTERM)
            assert manager.recv(999) == b"STOPPING=1"
            assert gateway.wait() == 0
        with (
            raw.connect(http.getsockname()[:2]) as waiting,
            Activated(sockets, "-c", file, *addresses, environment={}),
            raw.Reader(waiting) as reader,
        ):  # the manager's socket has not been spoiled: who comes in between waits in it
            waiting.sendall(raw.get("/v1/models", "connection: close"))
            answer = reader.answer()
            assert answer is not None
            assert answer.status == 200


def test_an_inherited_socket_lets_nobody_in_unasked(engine: InferGateway) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        arguments = ("--backend", f"vllm={engine.url}", "--grpc", "off", "--admin", "127.0.0.1:0")
        gateway = Activated({"http": everywhere}, *arguments, environment={})
        try:
            assert gateway.start().wait() == 1
            assert "lets everybody in" in gateway.stderr
        finally:
            gateway.close()
