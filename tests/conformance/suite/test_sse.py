"""Events are what the specification says they are, however they arrive."""

from hypothesis import given
from hypothesis import strategies as st

from conformance.suite.sse import Parser

LINE = st.sampled_from(
    [b"data: a", b"data:b", b": c", b"event: e", b"id: 7", b"retry: 5", b"odd", b"data", b"\xc3\xa4"]
)
END = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(st.lists(LINE, max_size=3), END), max_size=6), st.data())
def test_any_split_gives_the_same_events(blocks: list[tuple[list[bytes], bytes]], data: st.DataObject) -> None:
    body = b"".join(b"".join(line + end for line in lines) + end for lines, end in blocks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    whole, split = Parser(), Parser()
    expected = whole.feed(body)
    found = [
        event
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)
        for event in split.feed(body[start:end])
    ]
    assert found == expected
    assert split.rest == whole.rest


def test_fields_are_taken_apart() -> None:
    (event,) = Parser().feed(b": why\nevent: ping\ndata: {\ndata:  1}\nid: 3\n\n")
    assert (event.name, event.data, event.comments, event.fields) == (
        "ping",
        "{\n 1}",
        ("why",),
        ("event", "data", "data", "id"),
    )


def test_what_is_not_ended_is_no_event() -> None:
    parser = Parser()
    assert parser.feed(b"data: 1\n\ndata: 2\n") != []
    assert parser.rest == b"data: 2\n"


def test_half_a_line_end_is_waited_for() -> None:
    parser = Parser()
    assert parser.feed(b"data: 1\r\n\r") == []
    (event,) = parser.feed(b"\n")
    assert event.data == "1"
    assert parser.rest == b""
