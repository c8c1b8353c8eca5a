"""Sockets that were open before: by name, else by address; what is no use is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from gateway.inherit import Inherited, inherited


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_by_name_else_by_address(listening: socket.socket) -> None:
    host, port = listening.getsockname()
    given = Inherited([("extProc", listening), ("unknown", listening)])
    assert given.take("ext_proc", [("127.0.0.1", 1)]) == [listening]
    assert given.take("http", [("127.0.0.1", 1)]) == []
    assert given.take("http", [(host, port)]) == [listening]
    assert not given


def test_a_wildcard_is_one_whatever_its_family() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as everywhere:
        port = everywhere.getsockname()[1]
        assert Inherited([("x", everywhere)]).take("http", [("127.0.0.1", port)]) == []
        assert Inherited([("x", everywhere)]).take("http", [("0.0.0.0", port)]) == [everywhere]


def test_what_is_left_is_closed_and_named(listening: socket.socket) -> None:
    host, port = listening.getsockname()
    assert Inherited([("spare", listening)]).close() == [f"spare ({host}:{port})"]
    assert listening.fileno() < 0


def test_what_is_for_somebody_else_or_no_socket_is_not_taken(listening: socket.socket) -> None:
    connected, other = socket.socketpair()
    descriptor = os.dup(listening.fileno())
    with connected, other:
        told = {"INFER_GATEWAY_SOCKETS": f"http:{descriptor},odd:{connected.fileno()}", "LISTEN_FDS": "1"}
        told |= {"LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
        given, problems = inherited(told)
        assert not told
        assert len(problems) == 1
        assert "(odd) is not used: it is no TCP socket that listens" in problems[0]
        (taken,) = given.take("http", [])
        with taken:
            assert not taken.get_inheritable()
