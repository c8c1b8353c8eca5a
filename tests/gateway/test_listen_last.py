"""The end of a listening socket: whoever the kernel has let in is taken, nobody else comes."""

from __future__ import annotations

import socket

import trio

from gateway.listen import close_listeners_after, open_listeners


def test_whoever_has_connected_is_taken_before_the_socket_closes() -> None:
    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        address = listeners[0].address
        clients = [socket.create_connection(address) for _ in range(300)]
        taken: list[socket.socket] = []
        close_listeners_after(listeners, lambda listener, sock, peer: taken.append(sock))
        assert len(taken) == 300
        for sock in (*clients, *taken):
            sock.close()
        with socket.socket() as late:
            assert late.connect_ex(address) != 0

    trio.run(main)
