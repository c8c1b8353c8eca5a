"""A successor that never gets ready is ended, and so is one whose block fails; one that is ready waits for its turn."""

from __future__ import annotations

import resource
import socket
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.succession import NoSuccessor, Predecessor, successor
from tests.gateway.test_threads import without_threads

_READY = """
import os, socket
end, could_serve = os.environ["INFER_GATEWAY_PREDECESSOR"].split(",")
pair = socket.socket(fileno=int(end))
pair.setblocking(True)
pair.send(b"ready")
pair.recv(1)
name, descriptor = os.environ["INFER_GATEWAY_SOCKETS"].split(":")
accepted, _ = socket.socket(fileno=int(descriptor)).accept()
accepted.send(f"{name} {could_serve}".encode())
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def children() -> set[str]:
    """Whichever thread has started them."""
    return {pid for each in Path("/proc/self/task").iterdir() for pid in (each / "children").read_text().split()}


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (python("import time; time.sleep(60)"), "could not serve within 0.2 s"),
        (python("raise SystemExit(3)"), "ended with exit code 3"),
        (["/no/such/program"], "cannot run /no/such/program: No such file"),
    ],
)
def test_why_there_is_no_successor(command: list[str], why: str) -> None:
    within_s = 0.2 if "within" in why else 20.0

    async def main() -> None:
        with pytest.raises(NoSuccessor, match=why):
            async with successor([], could_serve=False, command=command, within_s=within_s):
                pass

    before = children()
    trio.run(main)
    assert children() == before


def test_who_has_no_descriptor_left_gets_no_successor() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(NoSuccessor, match="Too many open files"):
                async with successor([], could_serve=False, command=python("")):
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    trio.run(main)


def test_who_has_no_thread_left_gets_no_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)

    async def main() -> None:
        with pytest.raises(NoSuccessor, match="can't start new thread"):
            async with successor([], could_serve=False, command=python("")):
                pass

    trio.run(main)


def test_it_has_the_sockets_and_waits_for_its_turn() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with successor([("ext_proc", listening)], could_serve=True, command=python(_READY)) as process:
                client = await trio.open_tcp_stream(*listening.getsockname())
                with trio.move_on_after(0.2):
                    raise AssertionError(await client.receive_some())
            with trio.fail_after(20):
                async with client:
                    assert await client.receive_some() == b"extProc 1"
                assert await process.wait() == 0

    trio.run(main)


def test_who_is_cancelled_meanwhile_leaves_nobody() -> None:
    async def main() -> None:
        with trio.move_on_after(0.2):
            async with successor([], could_serve=True, command=python("import time; time.sleep(60)")):
                pass

    before = children()
    trio.run(main)
    assert children() == before


@pytest.mark.parametrize("could_serve", [True, False])
def test_a_successor_says_that_it_is_ready_once_it_can_do_what_was_done_before(could_serve: bool) -> None:
    ours, theirs = socket.socketpair()
    environment = {"INFER_GATEWAY_PREDECESSOR": f"{theirs.detach()},{could_serve:d}"}
    predecessor = Predecessor.of(environment)
    assert predecessor is not None
    assert not environment
    looks: list[None] = []

    async def main() -> None:
        ours.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(predecessor.succeed, lambda: bool(looks.append(None)) or len(looks) > 2)
            await trio.lowlevel.wait_readable(ours)
            assert ours.recv(99) == b"ready"
            ours.close()

    trio.run(main)
    assert len(looks) == (3 if could_serve else 0)


def test_one_whose_predecessor_has_died_waits_for_nothing() -> None:
    ours, theirs = socket.socketpair()
    predecessor = Predecessor.of({"INFER_GATEWAY_PREDECESSOR": f"{theirs.detach()},1"})
    assert predecessor is not None

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(predecessor.succeed, lambda: False)
                await trio.testing.wait_all_tasks_blocked()
                ours.close()

    trio.run(main)
