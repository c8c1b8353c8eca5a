"""Threads that cannot be had, and names that nobody answers about."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
import trio.testing

from gateway.threads import Names, in_thread, need_thread


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernel granted none: in Trio those that are idle do not count either."""

    async def run_sync(*args: object, **options: object) -> object:
        raise RuntimeError("can't start new thread")

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio.to_thread.run_sync", run_sync)
    monkeypatch.setattr("trio._subprocess.trio.to_thread.run_sync", run_sync)
    monkeypatch.setattr(threading.Thread, "start", start)


def test_a_shortage_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trio.run(in_thread, int, "7") == 7
    need_thread()
    without_threads(monkeypatch)
    with pytest.raises(OSError, match=r"pids\.max"):
        trio.run(in_thread, int, "7")
    with pytest.raises(OSError, match=r"pids\.max"):
        trio.run(Names().getaddrinfo, b"localhost", 80)
    with pytest.raises(OSError, match=r"pids\.max"):
        need_thread()


def test_what_else_goes_wrong_in_one_is_as_it_was() -> None:
    def fail() -> None:
        raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        trio.run(in_thread, fail)


def test_names_that_nobody_answers_about_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def mute(host: object, port: object, family: int, kind: int, proto: int, flags: int) -> list[object]:
        if flags & socket.AI_NUMERICHOST:  # Trio asks so much itself
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        over.wait(20)
        return []

    async def main() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", mute)
        trio.socket.set_custom_hostname_resolver(Names())
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(trio.socket.getaddrinfo, f"host-{number}.example", 80)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(10):
                assert await in_thread(int, "7") == 7
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        over.set()
