from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.grpc import Code
from protocols.grpc.client.errors import ended, refused
from protocols.grpc.metadata import fields, metadata

NAMES = st.from_regex(r"\Ax-[0-9a-z_.-]{0,8}\Z").filter(lambda name: not name.endswith("-bin"))
TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
PAIRS = st.lists(st.tuples(NAMES, TEXTS) | st.tuples(NAMES.map("{}-bin".format), st.binary()))


@given(PAIRS)
def test_what_is_sent_is_what_is_received(pairs: list[tuple[str, str | bytes]]) -> None:
    assert metadata(fields(pairs)) == tuple(pairs)
    assert all(b"\n" not in value and value.isascii() for _, value in fields(pairs))


@given(st.lists(st.tuples(st.binary(), st.binary())))
def test_whatever_is_received_is_read(received: list[tuple[bytes, bytes]]) -> None:
    for name, value in metadata(received):
        assert isinstance(value, bytes) is name.endswith("-bin")
        assert not name.startswith((":", "grpc-"))


def test_a_mapping_does_as_well() -> None:
    assert fields({"a": "b"}) == [(b"a", b"b")]


@pytest.mark.parametrize("value", ["ü", "a\r\nb: c", "\x7f"])
def test_a_value_that_cannot_be_sent_is_not_shown(value: str) -> None:
    with pytest.raises(ValueError) as caught:
        fields({"authorization": value})
    assert value not in str(caught.value)


@given(st.dictionaries(st.sampled_from([b"grpc-status", b"grpc-message", b"grpc-status-details-bin"]), st.binary()))
def test_whatever_trailers_say_is_an_ending(trailers: dict[bytes, bytes]) -> None:
    error = ended(trailers, ())
    assert (error is None) is (trailers.get(b"grpc-status") == b"0")
    assert str(error)


def test_numbers_beyond_reason() -> None:
    assert ended({b"grpc-status": b"9" * 5000}, ()).code is Code.UNKNOWN
    assert refused(b"9" * 5000, b"").code is Code.UNKNOWN
