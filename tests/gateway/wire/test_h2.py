"""Frames as an independent reader of HTTP/2 sees them."""

from __future__ import annotations

from hpack import Decoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import h2

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=300).map(str.encode)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=20_000)), max_size=4)


def frames(data: bytes) -> list[Frame]:
    read = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        data = data[9 + length :]
        read.append(frame)
    return read


@given(FIELDS, st.integers(16, 16384), st.booleans())
def test_headers_survive_the_way_in_frames_no_longer_than_allowed(
    fields: list[tuple[bytes, bytes]], max_frame: int, end: bool
) -> None:
    read = frames(h2.headers(5, h2.NO_TABLE + h2.block(fields), end, max_frame))
    assert isinstance(read[0], HeadersFrame)
    assert all(isinstance(frame, ContinuationFrame) for frame in read[1:])
    assert ["END_HEADERS" in frame.flags for frame in read] == [False] * (len(read) - 1) + [True]
    assert ("END_STREAM" in read[0].flags) is end
    assert all(len(frame.data) <= max_frame and frame.stream_id == 5 for frame in read)
    decoder = Decoder(max_header_list_size=10**6)
    assert list(decoder.decode(b"".join(frame.data for frame in read), raw=True)) == fields
    assert decoder.header_table_size == 0


def test_the_other_frames() -> None:
    sent = h2.data(3, b"abc") + h2.settings({3: 100, 4: 65536}) + h2.ping(b"12345678") + h2.goaway(7, 11, b"calm")
    data, settings, ping, goaway = frames(sent)
    assert (type(data), data.stream_id, data.data, set(data.flags)) == (DataFrame, 3, b"abc", set())
    assert (type(settings), settings.settings) == (SettingsFrame, {3: 100, 4: 65536})
    assert (type(ping), ping.opaque_data) == (PingFrame, b"12345678")
    assert type(goaway) is GoAwayFrame
    assert (goaway.last_stream_id, goaway.error_code, goaway.additional_data) == (7, 11, b"calm")
