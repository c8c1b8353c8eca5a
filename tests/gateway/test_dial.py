"""Names with several addresses, of which some lead nowhere; names whose servers keep silent."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from gateway import dial as module
from gateway.dial import dial

Found = list[tuple[Any, ...]]


class Names(trio.abc.HostnameResolver):
    """Tells these addresses of every name, once ``answers``."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self._addresses = addresses
        self.asked = 0
        self.answers = trio.Event()
        self.answers.set()
        self.failure: Exception | None = None

    async def getaddrinfo(self, *_: object, **__: object) -> Found:  # type: ignore[override]
        self.asked += 1
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in self._addresses]

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise NotImplementedError


@contextmanager
def listening() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """What is sent there is never answered: the queue before the door is full."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()


def run(names: Callable[[], Names], scenario: Callable[[Names], Any], clock: trio.abc.Clock | None = None) -> None:
    async def main() -> None:
        resolver = names()
        trio.socket.set_custom_hostname_resolver(resolver)
        with trio.fail_after(5):
            await scenario(resolver)

    trio.run(main, clock=clock)


@pytest.mark.parametrize("first", [silent, refusing])
def test_an_address_that_leads_nowhere_is_not_waited_for(first: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AHEAD_S", 0.02)

    async def scenario(names: Names) -> None:
        with await dial("engine", 80) as sock:
            assert sock.getpeername() == good

    with first() as bad, first() as worse, listening() as good:
        run(lambda: Names(bad, worse, good), scenario)


def test_an_address_of_a_kind_that_this_machine_has_not_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = socket.socket

    def without_ipv6(family: int = -1, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "not here")
        return plain(family, *rest)

    class Both(Names):
        async def getaddrinfo(self, *given: object, **more: object) -> Found:  # type: ignore[override]
            found = await super().getaddrinfo()
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 9, 0, 0)), *found]

    async def scenario(names: Names) -> None:
        monkeypatch.setattr(socket, "socket", without_ipv6)
        try:
            (await dial("engine", 80)).close()
        finally:
            monkeypatch.undo()

    with listening() as good:
        run(lambda: Both(good), scenario)


def test_where_all_lead_nowhere_the_last_one_is_told() -> None:
    async def scenario(names: Names) -> None:
        with pytest.raises(ConnectionRefusedError, match=f"ECONNREFUSED connecting to 127.0.0.1:{last[1]}"):
            await dial("engine", 80)

    with refusing() as first, refusing() as last:
        run(lambda: Names(first, last), scenario)


def test_who_gives_up_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    plain = socket.socket

    def noted(*given: Any) -> socket.socket:
        made.append(plain(*given))
        return made[-1]

    async def scenario(names: Names) -> None:
        monkeypatch.setattr(module.socket, "socket", noted)
        try:
            with trio.move_on_after(0.05) as scope:
                await dial("engine", 80)
        finally:
            monkeypatch.undo()
        assert scope.cancelled_caught
        assert made
        assert all(each.fileno() == -1 for each in made)

    with silent() as first, silent() as second:
        run(lambda: Names(first, second), scenario)


def test_a_name_that_hangs_is_looked_up_once_however_many_want_it() -> None:
    async def scenario(names: Names) -> None:
        names.answers = trio.Event()
        ended: list[str] = []

        async def want(patience: float) -> None:
            with trio.move_on_after(patience):
                (await dial("engine", 80)).close()
                ended.append("connected")

        async with trio.open_nursery() as nursery:
            for patience in (0.0, 0.01, *[60.0] * 50):
                nursery.start_soon(want, patience)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert names.asked == 1
            names.answers.set()
        assert ended == ["connected"] * 50
        (await dial("engine", 80)).close()
        assert names.asked == 2, "what was found is not kept"

    with listening() as good:
        run(lambda: Names(good), scenario)


@pytest.mark.parametrize(
    "failure", [socket.gaierror(socket.EAI_AGAIN, "later"), UnicodeError("no name"), RuntimeError("a bug")]
)
def test_whoever_waits_for_a_name_is_told_why_there_is_none(failure: Exception) -> None:
    async def scenario(names: Names) -> None:
        names.failure = failure
        told: list[OSError] = []

        async def want() -> None:
            try:
                await dial("engine", 80)
            except OSError as error:
                told.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(want)
            nursery.start_soon(want)
        assert len(told) == 2
        assert told[0] is not told[1]
        assert str(failure.args[-1]) in str(told[0])

    run(Names, scenario)


def test_an_address_is_not_looked_up() -> None:
    async def scenario(names: Names) -> None:
        (await dial(*good)).close()
        assert names.asked == 0

    with listening() as good:
        run(Names, scenario)
