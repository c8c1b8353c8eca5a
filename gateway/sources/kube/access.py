"""A cluster's address and credentials, kept fresh. (IO)

Invariant: no token, key or output of a plugin is in any message; whatever blocks runs in a process or a thread that
cancellation ends or leaves at once. However many requests want newer credentials, they are asked for once.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec
import trio

from gateway.config.document import ConfigError
from gateway.sources.kube.messages import Unreachable
from gateway.sources.kube.wire import Tls

ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_KUBECONFIG: Final = "~/.kube/config"
_PROGRAM: Final = str(Path(__file__).with_name("credentials.py"))
_PATIENCE_S: Final = 30.0
"""Plugins may ask a cloud."""
_LOOK_S: Final = 60.0
_RENEWAL_S: Final = 10.0
_EARLY_S: Final = 60.0
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")

_log = logging.getLogger("infer_gateway.kubernetes")


class Credentials(msgspec.Struct, frozen=True):
    """``authorization``: the header's value, "" without. ``expires``: in seconds of the epoch."""

    authorization: str = ""
    tls: Tls = Tls()
    expires: float = math.inf

    def headers(self) -> dict[str, str]:
        return {"authorization": self.authorization} if self.authorization else {}

    def __repr__(self) -> str:
        return "Credentials(…)"


class _Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `credentials` answers."""

    error: str = ""
    server: str = ""
    namespace: str = ""
    authorization: str = ""
    expires: float | None = None
    tls: Tls = Tls()
    files: tuple[str, ...] = ()
    token_file: str = ""
    authorities_file: str = ""


class Access:
    """``server`` is a URL without a slash at its end, ``namespace`` our own, ``place`` where it is from."""

    def __init__(self, place: str, question: Mapping[str, str], found: _Found, credentials: Credentials) -> None:
        self.place = place
        self.server = found.server.rstrip("/")
        self.namespace = found.namespace
        self._question = question
        self._found = found
        self._credentials = credentials
        self._files = _signature(found.files)
        self._lock = trio.Lock()
        self._asked = -math.inf
        self._look = trio.current_time() + _LOOK_S
        self._told = ""

    @classmethod
    async def find(cls, kubeconfig: str = "", context: str = "", *, account: str = ACCOUNT) -> Self:
        """``kubeconfig``, else the service account of a pod, else KUBECONFIG or ~/.kube/config. Raises ConfigError."""
        if importlib.util.find_spec("kubernetes") is None:
            raise ConfigError(["--kubernetes needs the official client: pip install 'infer-gateway[kubernetes]'"])
        if not kubeconfig and not context and os.environ.get("KUBERNETES_SERVICE_HOST"):
            place, question = f"service account {account}", {"account": account}
        else:
            names = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
            place = f"kubeconfig {names}" + (f', context "{context}"' if context else "")
            question = {"kubeconfig": names, "context": context}
        try:
            found = await _ask(question)
            credentials = await trio.to_thread.run_sync(_credentials, found, abandon_on_cancel=True)
        except OSError as error:
            raise ConfigError([f"{place}: {error}"]) from None
        if not re.match(r"https?://[^/]", found.server):
            raise ConfigError([f"{place}: its server is no URL: {found.server[:200]!r}"])
        namespace = await trio.to_thread.run_sync(_namespace, found, account, abandon_on_cancel=True)
        return cls(place, question, msgspec.structs.replace(found, namespace=namespace), credentials)

    async def current(self) -> Credentials:
        """Renewed before they expire and when their files change; where that fails, those of before."""
        if self._due() and not self._lock.locked():  # who comes meanwhile uses what there is
            async with self._lock:
                try:
                    await self._looked()
                except OSError as error:
                    self._tell(f"credentials cannot be renewed, those of before are used: {error}")
        return self._credentials

    async def renew(self, refused: Credentials) -> bool:
        """Whether there are others now. Raises Unreachable."""
        async with self._lock:
            if self._credentials == refused and trio.current_time() >= self._asked + _RENEWAL_S:
                try:
                    await self._read()
                except OSError as error:
                    raise Unreachable(
                        f"{self.place}: credentials are refused, and there are no others: {error}"
                    ) from None
            return self._credentials != refused

    def _due(self) -> bool:
        now = trio.current_time()
        expiring = time.time() >= self._credentials.expires - _EARLY_S
        return now >= self._look or (expiring and now >= self._asked + _RENEWAL_S)

    async def _looked(self) -> None:
        self._look = trio.current_time() + _LOOK_S
        expiring = time.time() >= self._credentials.expires - _EARLY_S
        files = await trio.to_thread.run_sync(_signature, self._found.files, abandon_on_cancel=True)
        if self._found.token_file or expiring or files != self._files:
            await self._read()

    async def _read(self) -> None:
        """Raises OSError. A service account's files are read here, everything else is asked for."""
        self._asked = trio.current_time()
        found = self._found if self._found.token_file else await _ask(self._question)
        credentials = await trio.to_thread.run_sync(_credentials, found, abandon_on_cancel=True)
        self._files = await trio.to_thread.run_sync(_signature, found.files, abandon_on_cancel=True)
        self._found = found
        self._told = ""
        if credentials != self._credentials:
            self._credentials = credentials

    def _tell(self, words: str) -> None:
        if words != self._told:
            self._told = words
            _log.warning("%s: %s", self.place, words)


async def _ask(question: Mapping[str, str]) -> _Found:
    """Raises OSError. Cancelled, it kills the program and its plugins."""
    done = None
    with trio.move_on_after(_PATIENCE_S):
        done = await trio.run_process(
            [sys.executable, "-P", _PROGRAM],
            stdin=msgspec.json.encode(question),
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            start_new_session=True,
            deliver_cancel=_kill,
        )
    if done is None:
        raise OSError(f"no credentials within {_PATIENCE_S:g} s; does its plugin wait for somebody?")
    try:
        found = msgspec.json.decode(done.stdout or b"", type=_Found)
    except ValueError:
        raise OSError(f"the official client failed ({done.returncode})") from None
    if found.error:
        raise OSError(found.error)
    return found


async def _kill(process: trio.Process) -> None:
    os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the plugins too


def _credentials(found: _Found) -> Credentials:
    """Raises OSError. Reads files."""
    if not found.token_file:
        authorization, tls = found.authorization, found.tls
    else:
        authorization = "Bearer " + Path(found.token_file).read_text("ascii", "replace").strip()
        tls = Tls(Path(found.authorities_file).read_text("ascii", "ignore"))
    if authorization and not _SENDABLE.fullmatch(authorization):
        raise OSError("its token is empty, or holds what no header can")
    return Credentials(authorization, tls, math.inf if found.expires is None else found.expires)


def _signature(names: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """What differs when one of the files does."""
    return tuple(_stat(name) for name in names)


def _stat(name: str) -> tuple[int, int, int]:
    try:
        found = os.stat(name)
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _namespace(found: _Found, account: str) -> str:
    if name := os.environ.get("POD_NAMESPACE", ""):
        return name
    if found.token_file:
        try:
            return Path(account, "namespace").read_text().strip() or "default"
        except OSError:
            return "default"
    return found.namespace or "default"
