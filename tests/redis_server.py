"""A redis-server of a test's own: started, waited for, killed, stopped for a while, started again. (IO)

It keeps nothing on disk and listens on the loopback only. Leaving the block ends it by its process id.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import trustme

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server (or valkey-server)")
READY_S = 20.0
"""Far above what it needs, for machines that are busy with something else."""


class RedisServer:
    """``url`` is without credentials. With ``tls`` it speaks nothing else, and ``ca_file`` is whom to believe.

    With ``cluster`` it is one that consists of it alone, once it has slots.
    """

    def __init__(self, *, password: str = "", tls: bool = False, unix: bool = False, cluster: bool = False) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        self._path = Path(self._directory.name)
        self._password = password
        self._tls = tls
        self._bus = _free_port() if cluster else 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0 if unix else _free_port()
        self.socket = self._path / "redis.sock" if unix else None
        self.ca_file = ""
        if tls:
            self._certify()

    @property
    def url(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    def _certify(self) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(self._path / "ca.pem")
        certificate.private_key_pem.write_to_path(self._path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(self._path / "cert.pem")
        self.ca_file = str(self._path / "ca.pem")

    def _arguments(self) -> Iterator[str]:
        yield from ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(self._path))
        if self.socket is not None:
            yield from ("--port", "0", "--unixsocket", str(self.socket))
        elif self._tls:
            yield from ("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no")
            yield from ("--tls-ca-cert-file", self.ca_file, "--tls-key-file", str(self._path / "key.pem"))
            yield from ("--tls-cert-file", str(self._path / "cert.pem"))
        else:
            yield from ("--port", str(self.port))
        if self._password:
            yield from ("--requirepass", self._password)
        if self._bus:
            yield from ("--cluster-enabled", "yes", "--cluster-port", str(self._bus))

    def start(self) -> Self:
        """Also after `kill` or `stop`: on the same port, with nothing in it."""
        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, *self._arguments()], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        """Whether it says anything: an answer, or that a password is wanted."""
        try:
            with self._connected() as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(1) in (b"+", b"-")
        except OSError:
            return False

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        if self.socket is not None:
            with socket.socket(socket.AF_UNIX) as plain:
                plain.connect(str(self.socket))
                yield plain
            return
        with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as plain:
            if not self._tls:
                yield plain
                return
            context = ssl.create_default_context(cafile=self.ca_file)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                yield wrapped

    def command(self, *words: str) -> bytes:
        """The raw answer to a command, of at most 64 KiB: for looking inside. Not over TLS."""
        with self._connected() as connection:
            connection.sendall("".join(f"{' '.join(words)}\r\n").encode())
            return connection.recv(65536)

    @contextlib.contextmanager
    def sentinel(self, service: str) -> Iterator[int]:
        """The port of a sentinel that calls this server the master of ``service``."""
        assert PROGRAM is not None
        port = _free_port()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {self._path}",
            f"sentinel monitor {service} 127.0.0.1 {self.port} 1",
        ]
        if self._password:
            lines.append(f"sentinel auth-pass {service} {self._password}")
        configuration = self._path / "sentinel.conf"
        configuration.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(
            [PROGRAM, str(configuration), "--sentinel"], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        try:
            yield port
        finally:
            process.kill()
            process.wait(READY_S)

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(READY_S)

    def pause(self) -> None:
        """It takes connections and bytes, as the kernel does that, and answers nothing until `resume`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()
        self._directory.cleanup()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
