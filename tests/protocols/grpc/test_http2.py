"""What is read of DATA frames beside h2 is what h2 would have read."""

from __future__ import annotations

from typing import Any

import hpack
from h2.exceptions import ProtocolError
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire import h2
from protocols.grpc.http2 import Http2
from protocols.grpc.limits import Limits

CALL = hpack.Encoder().encode([(":method", "POST"), (":path", "/x"), (":scheme", "http"), (":authority", "a")])
LONG, TOO_LONG = 16384, 16385
HEADERS, RESET, WINDOW, CONTINUATION = 1, 3, 8, 9


class Plain(Http2):
    """Leaves everything to h2."""

    def _data(self, data: bytes, at: int, end: int, events: list[Any]) -> bool:
        return False


def told(subject: Http2, pieces: list[bytes]) -> tuple[list[str], int | None, tuple[int, ...]]:
    """What it says of the pieces, the code of the error it ends with, and what is left of the windows."""
    events: list[str] = []
    code = None
    try:
        for piece in pieces:
            events += map(spelled, subject.receive(piece))
            while subject.more:
                events += map(spelled, subject.receive(b""))
    except ProtocolError as error:
        code = int(error.error_code)
    state = subject._h2
    windows = [stream._inbound_window_manager.current_window_size for stream in state.streams.values()]
    return events, code, (state._inbound_flow_control_window_manager.current_window_size, *windows)


def spelled(event: Any) -> str:
    shown = {name: str(value) for name, value in vars(event).items() if not name.startswith("_")}
    return f"{type(event).__name__} {shown}"


def started(kind: type[Http2], window: int) -> Http2:
    subject = kind(Limits(window=window, connection_window=65535))
    subject.greet()
    return subject


IDS = st.sampled_from([1, 3, 5])
DATA = st.builds(
    lambda stream, size, flags: h2.frame(0, flags, stream, bytes(size)),
    IDS, st.sampled_from([0, 1, 7, LONG, LONG, TOO_LONG]), st.sampled_from([0, 0, 0, 1, 8, 9, 2]),
)  # fmt: skip
FRAMES = st.one_of(
    DATA,
    DATA,
    DATA,
    st.builds(lambda stream, flags: h2.frame(HEADERS, flags, stream, CALL), IDS, st.sampled_from([4, 4, 4, 5, 0])),
    st.builds(lambda stream: h2.frame(CONTINUATION, 4, stream, b""), IDS),
    st.builds(lambda stream: h2.frame(RESET, 0, stream, bytes(4)), IDS),
    st.builds(lambda stream: h2.frame(WINDOW, 0, stream, b"\0\0\0\1"), IDS),
)
OPEN = h2.frame(HEADERS, 4, 1, CALL)


@given(st.lists(FRAMES, max_size=24), st.sampled_from([20_000, 1 << 20]), st.lists(st.integers(0, 60_000), max_size=5))
@example([OPEN, *[h2.frame(0, 0, 1, bytes(LONG))] * 5], 1 << 20, [])
@example([OPEN, *[h2.frame(0, 0, 1, bytes(LONG))] * 2], 20_000, [])
@example([OPEN, h2.frame(0, 1, 1, b"x"), h2.frame(0, 0, 1, b"y")], 20_000, [])
@example([OPEN, h2.frame(HEADERS, 0, 3, CALL), h2.frame(0, 0, 1, b"y")], 20_000, [])
@example([OPEN, h2.frame(0, 0, 1, bytes(TOO_LONG))], 1 << 20, [])
@example([OPEN, h2.frame(0, 8, 1, b"\1xy"), h2.frame(0, 9, 1, b"\1xy")], 20_000, [])
def test_data_is_read_as_h2_reads_it(frames: list[bytes], window: int, cuts: list[int]) -> None:
    sent = h2.PREFACE + h2.settings({}) + b"".join(frames)
    ends = sorted({max(len(h2.PREFACE), min(cut, len(sent))) for cut in cuts} | {len(sent)})
    pieces = [sent[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert told(started(Http2, window), pieces) == told(started(Plain, window), pieces)


def test_calls_mostly_need_no_h2() -> None:
    subject = started(Http2, 1 << 20)
    subject.receive(h2.PREFACE + h2.settings({}) + OPEN)
    asked: list[bytes] = []
    subject._h2.receive_data = asked.append  # type: ignore[method-assign,assignment]
    said = subject.receive(h2.frame(0, 0, 1, b"x") + h2.frame(0, 1, 1, b"y"))
    assert asked == []
    assert [type(event).__name__ for event in said] == ["DataReceived", "DataReceived", "StreamEnded"]
