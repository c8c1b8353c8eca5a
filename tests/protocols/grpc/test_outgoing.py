"""What a call sends: in gRPC's order, within the windows, whatever they are."""

from __future__ import annotations

from hyperframe.frame import DataFrame, HeadersFrame
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.grpc import Messages, framed
from protocols.grpc.outgoing import Outgoing
from tests.gateway.wire.test_h2 import frames


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 200), min_size=1), st.integers(16, 100))
def test_any_windows_give_the_same_call(messages: list[bytes], windows: list[int], max_frame: int) -> None:
    outgoing = Outgoing(3)
    outgoing.start([(b"a", b"b" * 200)])
    waiting = list(messages)
    sent = b""
    turn = 0
    while not outgoing.done:
        if waiting:
            outgoing.add(framed(waiting.pop(0)))
        elif not outgoing.ended:
            outgoing.end()
        window = windows[turn % len(windows)] if turn < 50 else 1000
        before = outgoing.size
        taken, used = outgoing.take(window, max_frame)
        assert used <= window
        assert before - outgoing.size == used
        sent += taken
        turn += 1
    assert outgoing.take(1000, max_frame) == (b"", 0)
    read = frames(sent)
    data = [frame for frame in read if isinstance(frame, DataFrame)]
    assert Messages().feed(b"".join(frame.data for frame in data)) == messages
    assert isinstance(read[0], HeadersFrame)
    assert [set(frame.flags) & {"END_STREAM"} for frame in read].count({"END_STREAM"}) == 1
    assert all(frame.body_len <= max_frame for frame in read)


def test_messages_that_wait_together_leave_in_one_frame() -> None:
    outgoing = Outgoing(1)
    outgoing.start()
    for _ in range(10):
        outgoing.add(framed(b"abc"))
    outgoing.end()
    assert [type(frame) for frame in frames(outgoing.take(10_000, 16384)[0])] == [HeadersFrame, DataFrame, HeadersFrame]


def test_a_call_that_fails_before_it_sends_is_trailers_alone() -> None:
    outgoing = Outgoing(1)
    outgoing.end([(b"grpc-status", b"5")])
    (only,) = frames(outgoing.take(0, 16384)[0])
    assert {"END_STREAM", "END_HEADERS"} <= set(only.flags)
