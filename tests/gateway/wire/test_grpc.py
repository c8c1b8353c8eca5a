"""gRPC's framing: any cuts give the same messages or the same status, within the limit; texts survive the way."""

import gzip
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire import grpc
from gateway.wire.grpc import Code, GrpcError, Messages, framed

LIMIT = 100
GARBAGE = b"\1\0\0\0\3abc"


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted(min(cut, len(data)) for cut in cuts)
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]


def outcome(pieces: list[bytes], inflate: bool = True) -> tuple[list[bytes], bool] | Code:
    messages = Messages(LIMIT, inflate)
    try:
        return [message for piece in pieces for message in messages.feed(piece)], messages.whole
    except GrpcError as error:
        return error.code


@given(st.lists(st.tuples(st.binary(max_size=60), st.booleans())), st.lists(st.integers(0, 400), max_size=8))
def test_what_was_framed_comes_out_however_it_is_cut(sent: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    data = b"".join(framed(message, gzip=packed) for message, packed in sent)
    assert outcome(in_pieces(data, cuts)) == ([message for message, _ in sent], True)


@given(st.binary(max_size=300) | st.just(GARBAGE), st.lists(st.integers(0, 300), max_size=8), st.booleans())
@example(framed(b"a" * 100) + b"\2", [], False)
def test_garbage_gives_the_same_outcome_however_it_is_cut(data: bytes, cuts: list[int], inflate: bool) -> None:
    assert outcome(in_pieces(data, cuts), inflate) == outcome([data], inflate)


@given(st.binary(max_size=40), st.integers(1, 44))
def test_a_message_cut_short_is_not_whole(message: bytes, cut: int) -> None:
    data = framed(message)
    assert outcome([data[:cut]]) == (([], False) if cut < len(data) else ([message], True))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (struct.pack(">BI", 0, 2**32 - 1), Code.RESOURCE_EXHAUSTED),
        (struct.pack(">BI", 0, LIMIT + 1), Code.RESOURCE_EXHAUSTED),
        (framed(b"a" * (LIMIT + 1), gzip=True), Code.RESOURCE_EXHAUSTED),
        (framed(b"a" * 10**6, gzip=True)[:5], Code.RESOURCE_EXHAUSTED),
        (b"\2\0\0\0\0", Code.INTERNAL),
        (b"\1\0\0\0\0", Code.INTERNAL),
        (GARBAGE, Code.INTERNAL),
        (b"\1\0\0\0\x0a" + gzip.compress(b"abc")[:10], Code.INTERNAL),
        (b"\1\0\0\0\x19" + gzip.compress(b"abc") + b"xx", Code.INTERNAL),
    ],
)
def test_what_is_refused(data: bytes, code: Code) -> None:
    assert outcome([data]) is code


def test_limits_are_inclusive_and_a_bomb_of_several_members_is_one_message() -> None:
    assert outcome([framed(b"a" * LIMIT), framed(b"b" * LIMIT, gzip=True)]) == ([b"a" * LIMIT, b"b" * LIMIT], True)
    assert grpc.inflated(gzip.compress(b"a" * 60) + gzip.compress(b"b" * 40), LIMIT) == b"a" * 60 + b"b" * 40
    with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED"):
        grpc.inflated(gzip.compress(b"a" * 60) * 2, LIMIT)


def test_a_compressed_message_needs_an_encoding() -> None:
    assert outcome([framed(b"abc", gzip=True)], inflate=False) is Code.INTERNAL


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1S", 1.0), (b"250m", 0.25), ("2M", 120.0), ("1H", 3600.0), ("5u", 5e-6), ("99999999n", 0.099999999), ("0S", 0)],
)
def test_timeouts(text: bytes | str, seconds: float) -> None:
    assert grpc.timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "１S", b"\xff1S", "1 S", " 1S"]
)
def test_what_is_no_timeout(text: bytes | str) -> None:
    with pytest.raises(ValueError, match="not a grpc-timeout"):
        grpc.timeout(text)


@given(st.floats(1e-9, 3e11))
@example(0.099999999)
@example(0.1)
def test_timeouts_survive_the_way_and_are_never_shortened(seconds: float) -> None:
    assert seconds * (1 - 1e-12) <= grpc.timeout(grpc.as_timeout(seconds)) <= seconds * 1.0001 + 2e-9


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1.0, "1n"), (0.0, "1n"), (1.0, "1000000u"), (float("inf"), "99999999H")]
)
def test_timeouts_at_the_edges(seconds: float, text: str) -> None:
    assert grpc.as_timeout(seconds) == text


@given(st.text())
def test_texts_survive_the_way_in_printable_ascii(text: str) -> None:
    encoded = grpc.encode_text(text)
    assert all(" " <= character <= "~" for character in encoded)
    if text.isprintable():
        assert grpc.decode_text(encoded) == text


def test_texts_that_are_badly_encoded_are_shown() -> None:
    assert grpc.decode_text("100% %e4%zz %C3%A9") == "100% \ufffd%zz é"


@given(st.binary())
def test_binary_fields_survive_the_way_padded_or_not(value: bytes) -> None:
    encoded = grpc.encode_binary(value)
    assert not encoded.endswith(b"=")
    assert grpc.decode_binary(encoded) == value == grpc.decode_binary(encoded + b"=" * (-len(encoded) % 4))


@pytest.mark.parametrize("value", [b"a", b"a b=", b"\xff\xff\xff\xff", b"===="])
def test_what_is_no_binary_field(value: bytes) -> None:
    with pytest.raises(ValueError):
        grpc.decode_binary(value)
