"""However much a server sends, so much of it is heard; and who says something may hear as much again."""

from __future__ import annotations

import pytest
import trio
from anyio.abc import ByteStream

from gateway.store import bounded
from gateway.store.bounded import Bounded, Oversized, bound


class Babbler(ByteStream):
    """Says the same for ever."""

    def __init__(self, word: bytes) -> None:
        self.word = word
        self.said: list[bytes | None] = []

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return self.word

    async def send(self, item: bytes) -> None:
        self.said.append(item)

    async def send_eof(self) -> None:
        self.said.append(b"")

    async def aclose(self) -> None:
        self.said.append(None)


@pytest.mark.parametrize(("word", "told"), [(b"xxx", "more than 0 MiB"), (b"\n\n", "more than 4 parts")])
def test_so_much_is_heard(monkeypatch: pytest.MonkeyPatch, word: bytes, told: str) -> None:
    monkeypatch.setattr(bounded, "BYTES", 8)
    monkeypatch.setattr(bounded, "LINES", 4)

    async def main() -> None:
        babbler = Babbler(word)
        stream = Bounded(babbler)
        for _ in range(3):
            assert [await stream.receive() for _ in range(2)] == [word, word]
            await stream.send(b"go on")
            babbler.said.pop()
        assert [await stream.receive() for _ in range(2)] == [word, word]
        with pytest.raises(Oversized, match=told):
            await stream.receive()
        await stream.send_eof()
        await stream.aclose()
        assert babbler.said == [b"", None]

    trio.run(main)


def test_each_connection_is_bounded_once() -> None:
    from coredis.connection import ClusterConnection, TCPConnection, UnixDomainSocketConnection

    bound()
    before = TCPConnection._connect, UnixDomainSocketConnection._connect
    bound()
    assert (TCPConnection._connect, UnixDomainSocketConnection._connect) == before
    assert "_connect" not in vars(ClusterConnection)
    assert hasattr(TCPConnection._connect, "__wrapped__")
