"""The server to a raw HTTP/2 client: calls of every cardinality, statuses, windows, drain."""

from __future__ import annotations

import struct

from gateway.wire.grpc import Code
from tests.protocols.grpc.rig import Rig, run


def test_every_cardinality() -> None:
    async def scenario(rig: Rig) -> None:
        client = await rig.client()
        unary = await client.call("Unary", b"hello")
        assert (unary.status, unary.messages, unary.fields[":status"]) == (Code.OK, [b"hello"], "200")
        assert unary.fields["content-type"] == "application/grpc"
        many = struct.pack(">I", 1000) + b"x"
        repeated = await client.call("Repeat", many)
        assert (repeated.status, repeated.messages) == (Code.OK, [many] * 1000)
        collected = await client.call("Collect", b"abc", b"de", b"")
        assert (collected.status, collected.messages) == (Code.OK, [b"5"])
        chat = await client.call("Chat", b"a", b"b", b"c")
        assert (chat.status, chat.messages) == (Code.OK, [b"a", b"b", b"c"])
        assert rig.server.statistics().streams == 0

    run(scenario)
