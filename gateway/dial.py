"""From the name of a host to a connected socket. (IO)

Names may have several addresses, of which some lead nowhere and say nothing: the next one is begun before it is known
what becomes of the last (RFC 8305). Looking a name up takes a thread for as long as its name servers are silent, which
nothing can cut short: whoever wants the same name meanwhile waits for the same answer, so that a name that hangs takes
one thread, and leaves others theirs.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, Final

import trio
from trio.lowlevel import wait_writable

from gateway.config.address import literal
from gateway.turn import of_this_run

_AHEAD_S: Final = 0.25
"""An address that has not answered by then is not waited for before the next one is tried."""

Address = tuple[Any, ...]
"""As `getaddrinfo` has them: family, kind, protocol, name, address."""


async def dial(host: str, port: int) -> socket.socket:
    """A socket, not blocking, connected to the address of ``host`` that answers first, tried in the order in which the
    system gives them. Raises OSError naming the address that failed last. The caller brings the deadline.
    """
    addresses = await _addresses(host, port)
    if len(addresses) != 1:
        return await _first_of(host, addresses)
    return await _connected(addresses[0])


async def _first_of(host: str, addresses: Sequence[Address]) -> socket.socket:
    won: list[socket.socket] = []
    failed: list[OSError] = [OSError(f"{host} has no address")]

    async def attempt(address: Address, over: trio.Event) -> None:
        try:
            found = await _connected(address)
        except OSError as error:
            failed[0] = error.with_traceback(None)
            over.set()
            return
        if won:
            found.close()
        won.append(found)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                over = trio.Event()
                nursery.start_soon(attempt, address, over)
                with trio.move_on_after(_AHEAD_S):
                    await over.wait()
    except BaseException:
        for each in won:
            each.close()
        raise
    if won:
        return won[0]
    try:
        raise failed[0]
    finally:
        failed.clear()  # whose traceback has this frame: each would keep the other


async def _connected(address: Address) -> socket.socket:
    family, kind, proto, _, place = address
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(place)
        if code == errno.EINPROGRESS:
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"{errno.errorcode.get(code, code)} connecting to {_text(place)}")
    except BaseException:
        sock.close()
        raise
    return sock


def _text(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


# -- names ------------------------------------------------------------------------------------------------------------


class _Question:
    """A name that is being looked up: ``found``, or what it came to, once ``answered``."""

    __slots__ = ("answered", "failure", "found")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.found: Sequence[Address] = ()
        self.failure: tuple[type[OSError], tuple[object, ...]] | None = None


async def _addresses(host: str, port: int) -> Sequence[Address]:
    """Raises OSError."""
    if literal(host) is not None:
        return await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    questions = of_this_run(_questions, dict[tuple[str, int], _Question])
    question = questions.get((host, port))
    if question is None:
        question = questions[host, port] = _Question()
        trio.lowlevel.spawn_system_task(_ask, host, port, question)
    await question.answered.wait()
    if question.failure is not None:
        kind, said = question.failure
        raise kind(*said)
    return question.found


async def _ask(host: str, port: int, question: _Question) -> None:
    try:
        question.found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        question.failure = type(error), error.args
    except UnicodeError as error:
        question.failure = OSError, (f"{host} is the name of no host: {error}",)
    except Exception as error:  # noqa: BLE001  a system task's would end the process
        question.failure = OSError, (f"looking up {host} failed: {error!r}",)
    finally:
        del of_this_run(_questions, dict[tuple[str, int], _Question])[host, port]
        question.answered.set()


_questions: trio.lowlevel.RunVar[dict[tuple[str, int], _Question]] = trio.lowlevel.RunVar("questions")
