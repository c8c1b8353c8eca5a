"""What a call receives: messages in order, and every byte of the window given back exactly once."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.grpc import Code, GrpcError, framed
from protocols.grpc.incoming import Incoming


@given(st.lists(st.tuples(st.binary(max_size=50), st.booleans()), max_size=10), st.data())
def test_every_byte_is_given_back_once_and_none_too_early(sent: list[tuple[bytes, bool]], data: st.DataObject) -> None:
    wire = b"".join(framed(message, gzip=packed) for message, packed in sent)
    incoming = Incoming(100, True)
    fed = back = 0
    taken: list[bytes] = []
    while fed < len(wire) or len(taken) < len(sent):
        action = data.draw(st.sampled_from(["feed", "take", "lend"]))
        if action == "feed" and fed < len(wire):
            size = data.draw(st.integers(1, len(wire) - fed))
            incoming.feed(wire[fed : fed + size], size)
            fed += size
        elif incoming.ready:
            message, earned = incoming.take()
            assert message is not None
            taken.append(message)
            back += earned
            assert incoming.lent == 0
        elif action == "lend":  # only who finds nothing ready does so
            before = incoming.lent
            lent = incoming.lend()
            assert incoming.lent - before == lent
            back += lent
        assert back <= fed
    assert taken == [message for message, _ in sent]
    incoming.end()
    last, rest = incoming.take()
    assert last is None
    assert back + rest == len(wire)


def test_what_was_not_taken_is_released_at_the_end() -> None:
    incoming = Incoming(100, False)
    incoming.feed(framed(b"abc") * 3, 24)
    assert incoming.take() == (b"abc", 8)
    assert incoming.release() == 16
    assert incoming.release() == 0


def test_an_error_comes_after_the_messages_before_it_and_drops_the_rest() -> None:
    incoming = Incoming(100, False)
    incoming.feed(framed(b"abc"), 8)
    incoming.feed(b"\7\0\0\0\0", 5)
    incoming.feed(framed(b"later"), 10)
    assert incoming.take()[0] == b"abc"
    for _ in range(2):
        with pytest.raises(GrpcError) as refused:
            incoming.take()
        assert refused.value.code is Code.INTERNAL


def test_what_is_compressed_is_so_until_it_is_taken() -> None:
    incoming = Incoming(10_000_000, True)
    bomb = framed(bytes(10_000_000), gzip=True)
    tracemalloc.start()
    for _ in range(10):
        incoming.feed(bomb, len(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert incoming.take() == (bytes(10_000_000), len(bomb))
    assert incoming.release() == 9 * len(bomb)


def test_gzip_that_is_none_is_the_last_that_is_heard() -> None:
    incoming = Incoming(100, True)
    incoming.feed(framed(b"abc") + b"\1\0\0\0\1x" + framed(b"later"), 22)
    assert incoming.take()[0] == b"abc"
    for _ in range(2):
        with pytest.raises(GrpcError) as refused:
            incoming.take()
        assert refused.value.code is Code.INTERNAL
    assert incoming.release() == 14


@pytest.mark.parametrize("frame", [16384, 2])
def test_what_nobody_has_taken_yet_holds_no_more_than_it_came_as(frame: int) -> None:
    """The smallest messages there are, as many as fit into a window."""
    window = framed(b"") * 50_000
    incoming = Incoming(100, False)
    tracemalloc.start()
    for start in range(0, len(window), frame):
        incoming.feed(window[start : start + frame], frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(window)
    assert incoming.size == len(window)
    taken = 0
    while incoming.ready:
        assert incoming.take() == (b"", 5)
        taken += 1
    assert (taken, incoming.size) == (50_000, 0)


@pytest.mark.parametrize(("rest", "ends"), [(b"", True), (b"\0\0", False)])
def test_what_comes_behind_is_understood_when_its_turn_comes(rest: bytes, ends: bool) -> None:
    incoming = Incoming(100, False)
    for piece in (framed(b"one"), framed(b"two") + rest):
        incoming.feed(piece, len(piece))
    incoming.end()
    assert [incoming.take()[0], incoming.take()[0]] == [b"one", b"two"]
    if ends:
        assert incoming.take() == (None, 0)
    else:
        with pytest.raises(GrpcError):
            incoming.take()
