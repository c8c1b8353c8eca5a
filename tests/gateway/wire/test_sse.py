"""Server-sent events: the standard's own examples, and any split of the bytes gives the same events."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import sse
from gateway.wire.sse import Event

LINES = st.sampled_from(
    [
        *[b"data: x", b"data:x", b"data", b"data:", b"data:  two", "data: é🙂".encode(), b"\xef\xbb\xbfdata: y"],
        *[b": comment", b":", b"event: ping", b"event:", b"id: 7", b"id", b"id: \0", b"retry: 10", b"unknown: 1"],
        *[b"", b"", b""],
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=14).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


def expected(stream: bytes) -> list[Event]:
    """The standard's algorithm, word for word, over the whole stream at once."""
    events, data, name, ident = [], b"", b"", b""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    for line in re.split(rb"\r\n|\r|\n", stream)[:-1]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if line == b"":
            if data:
                events.append(Event(data.removesuffix(b"\n"), name, ident))
            data = name = b""
        elif field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            ident = value
    return events


def feed_all(splitter: sse.Splitter, pieces: list[bytes]) -> list[bytes]:
    return [block for piece in pieces for block in splitter.feed(piece)]


def fed(pieces: list[bytes]) -> list[Event]:
    parser = sse.Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


@settings(max_examples=300)
@given(STREAMS, st.data())
def test_any_split_gives_the_events_of_the_standard(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert fed(pieces) == expected(stream)


@settings(max_examples=100)
@given(STREAMS)
def test_one_byte_at_a_time_gives_the_events_of_the_standard(stream: bytes) -> None:
    assert fed([stream[i : i + 1] for i in range(len(stream))]) == expected(stream)


@settings(max_examples=100)
@given(st.lists(st.builds(Event, st.binary().map(lambda b: b.replace(b"\r", b"")), st.sampled_from([b"", b"e"]))))
def test_encode_is_read_back(events: list[Event]) -> None:
    assert fed([sse.encode(event) for event in events]) == events


def test_an_event_comes_as_soon_as_its_last_byte_is_in_though_a_line_feed_may_follow() -> None:
    parser = sse.Parser()
    assert parser.feed(b"data: a\r\r") == [Event(b"a")]
    assert parser.feed(b"\ndata: b\n\n") == [Event(b"b")]


def test_a_half_event_at_the_end_is_none() -> None:
    assert fed([b"data: a\n\ndata: b\n"]) == [Event(b"a")]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_beyond_the_bound_is_an_error_however_it_is_split(size: int) -> None:
    stream = b"data: " + b"x" * 95 + b"\n\n"
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
    splitter = sse.Splitter(limit=100)
    with pytest.raises(sse.EventTooLong):
        feed_all(splitter, pieces)
    exact = sse.Splitter(limit=101)
    assert [len(block) for block in feed_all(exact, pieces)] == [101]


def test_a_long_event_in_many_pieces_is_not_searched_again_and_again() -> None:
    splitter = sse.Splitter()
    for _ in range(200):
        assert splitter.feed(b"x" * 65536) == []
    assert [len(block) for block in splitter.feed(b"\n\n")] == [200 * 65536]
