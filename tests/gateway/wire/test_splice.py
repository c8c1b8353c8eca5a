"""Splicing JSON members: the edit reads as intended, and every other byte stays."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import splice

NAMES = ["model", "stream", "stream_options", "a", "", "mødel", 'q"uote', "back\\slash"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        ['"model":', '\\"model\\":1', "}", "{", "]", ",", "\\", 'x","model":"y', "\u2028", "é", "\U0001f600"]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=3).map(tuple)
    ),
    max_leaves=8,
)
SPACES = st.sampled_from(["", "", " ", "\n\t", "\r\n "])


def spell(draw: st.DrawFn, text: str) -> str:
    """One of the many JSON spellings of a string."""
    how = draw(st.integers(0, 2))
    if how == 2 and text.isascii():
        return '"' + "".join(f"\\u{ord(c):04x}" if draw(st.booleans()) else json.dumps(c)[1:-1] for c in text) + '"'
    return json.dumps(text, ensure_ascii=how == 0)


def write(draw: st.DrawFn, value: object) -> str:
    def space() -> str:
        return draw(SPACES)

    if isinstance(value, str):
        return spell(draw, value)
    if isinstance(value, list):
        return "[" + space() + ",".join(space() + write(draw, v) + space() for v in value) + "]"
    if isinstance(value, tuple):  # an object as pairs, so that names may repeat
        return "{" + space() + ",".join(member(draw, k, v) for k, v in value) + "}"
    return json.dumps(value)


def member(draw: st.DrawFn, name: str, value: object) -> str:
    gaps = [draw(SPACES) for _ in range(4)]
    return gaps[0] + spell(draw, name) + gaps[1] + ":" + gaps[2] + write(draw, value) + gaps[3]


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[tuple[str, str]], bytes]:
    """An object as its members' (name, text) and as bytes."""
    pairs = draw(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5))
    texts = [(name, member(draw, name, value)) for name, value in pairs]
    lead, inside = draw(SPACES), draw(SPACES) if not texts else ""
    return texts, (lead + "{" + inside + ",".join(text for _, text in texts) + "}" + draw(SPACES)).encode()


def pairs(body: bytes) -> list[tuple[str, object]]:
    found = json.loads(body, object_pairs_hook=list)
    assert isinstance(found, list)
    return found


def squeezed(body: bytes) -> bytes:
    return re.sub(rb"[ \t\r\n]+", b"", body)


@settings(max_examples=200)
@given(documents(), st.sampled_from(NAMES), st.booleans())
def test_replace_sets_every_top_level_occurrence_and_nothing_else(
    document: tuple[list[tuple[str, str]], bytes], name: str, promise: bool
) -> None:
    _, body = document
    before = pairs(body)
    present = any(key == name for key, _ in before)
    after = pairs(splice.replace(body, name, b"[7]", present=promise and present))
    if present:
        assert after == [(k, [7] if k == name else v) for k, v in before]
    else:
        assert after == [(name, [7]), *before]


@settings(max_examples=200)
@given(documents(), st.sampled_from(NAMES))
def test_replace_keeps_the_bytes_of_the_other_members(document: tuple[list[tuple[str, str]], bytes], name: str) -> None:
    texts, body = document
    after = splice.replace(body, name, b"[7]")
    at = 0
    for key, text in texts:
        if key != name:
            at = after.index(text.encode(), at) + len(text.encode())


@settings(max_examples=200)
@given(documents(), st.lists(st.sampled_from(NAMES), max_size=3))
def test_remove_takes_every_occurrence_and_keeps_the_others_bytes(
    document: tuple[list[tuple[str, str]], bytes], names: list[str]
) -> None:
    texts, body = document
    after = splice.remove(body, names)
    assert pairs(after) == [(k, v) for k, v in pairs(body) if k not in names]
    kept = ",".join(text for key, text in texts if key not in names)
    assert squeezed(after) == squeezed(b"{" + kept.encode() + b"}")
    if len(kept) == len(",".join(text for _, text in texts)):
        assert after == body


@settings(max_examples=100)
@given(documents(), st.sampled_from(NAMES))
def test_insert_adds_a_first_member_and_keeps_the_rest(
    document: tuple[list[tuple[str, str]], bytes], name: str
) -> None:
    _, body = document
    after = splice.insert(body, name, b'{"x":1}')
    assert pairs(after) == [(name, [("x", 1)]), *pairs(body)]
    assert after.endswith(body[body.index(b"{") + 1 :])


@settings(max_examples=200)
@given(documents(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_merge_sets_the_nested_member_and_keeps_its_siblings(
    document: tuple[list[tuple[str, str]], bytes], name: str, inner: str
) -> None:
    _, body = document
    before = json.loads(body)
    raw = pairs(body)
    after = json.loads(splice.merge(body, name, inner, b"true"))
    if before.get(name) is None or isinstance(before[name], dict):
        assert after[name] == {**(before.get(name) or {}), inner: True}
    else:
        assert after[name] == before[name]
    assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}
    assert len(pairs(splice.merge(body, name, inner, b"true"))) == len(raw) + (name not in before)


def test_a_nested_member_of_the_same_name_is_left_alone_by_the_fast_path() -> None:
    body = b'{"metadata":{"model":"x"},"model":"y"}'
    assert splice.replace(body, "model", b'"z"', present=True) == b'{"metadata":{"model":"x"},"model":"z"}'


def test_a_look_alike_at_the_end_of_a_longer_key_is_left_alone() -> None:
    body = b'{"say \\"model":1,"model" : "y"}'
    assert splice.replace(body, "model", b'"z"', present=True) == b'{"say \\"model":1,"model" : "z"}'


def test_an_escaped_spelling_beside_a_plain_one_is_replaced_too() -> None:
    body = b'{"\\u006dodel":"x","model":"y"}'
    assert splice.replace(body, "model", b"1", present=True) == b'{"\\u006dodel":1,"model":1}'


def test_numbers_keep_every_digit() -> None:
    body = b'{"model":"m","seed":123456789012345678901234567890,"t":1.10000000000000000001e+5}'
    assert splice.replace(body, "model", b'"n"', present=True) == body.replace(b'"m"', b'"n"')


def test_deep_nesting_does_not_recurse() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert splice.replace(b'{"a":%b,"b":1}' % deep, "b", b"2") == b'{"a":%b,"b":2}' % deep


@pytest.mark.parametrize("name", [b"k", b"k%d"])
def test_no_more_members_are_looked_at_than_there_may_be(name: bytes) -> None:
    members = [b'"%b":1' % (name % n if b"%" in name else name) for n in range(splice.MOST)]
    body = b"{%b}" % b",".join(members)
    assert splice.remove(body, ["a"]) == body
    with pytest.raises(splice.Crowded):
        splice.remove(b'{"a":1,%b' % body[1:], ["a"])


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"1", b'{"a"}', b'{"a":1', b'{"a":[}', b'{"a":1 "b":2}', b'{"a":}', b"{,}"]
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        splice.remove(body, ["a"])


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        (b'{"a":1,"b":{"a":2}}', b'{"z":1,"b":{"a":2}}'),
        (b'{ "b" : 0 , "\\u0061" : 1.10 }', b'{ "b" : 0 , "z":1.10 }'),
        (b'{"a":1,"a":2}', b'{"z":1,"z":2}'),
        (b'{"b":"a"}', b'{"b":"a"}'),
    ],
)
def test_members_are_renamed_in_place(body: bytes, renamed: bytes) -> None:
    assert splice.rename(body, "a", "z") == renamed


@settings(max_examples=200)
@given(documents(), st.sampled_from(NAMES), st.booleans())
def test_rename_changes_the_name_and_nothing_else(
    document: tuple[list[tuple[str, str]], bytes], name: str, promise: bool
) -> None:
    _, body = document
    before = pairs(body)
    present = any(key == name for key, _ in before)
    after = pairs(splice.rename(body, name, "z", present=promise and present))
    assert after == [("z" if key == name else key, value) for key, value in before]


def test_a_name_that_is_there_once_is_renamed_without_reading_the_rest() -> None:
    body = b'{ "b" :"a", "a" : 1.10, {]'
    assert splice.rename(body, "a", "z", present=True) == body.replace(b'"a" :', b'"z" :')
