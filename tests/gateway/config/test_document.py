"""YAML and JSON text, friendly and hostile."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import document
from gateway.config.document import ConfigError, parse


def tree(text: str, file: str = "x.yaml") -> Any:
    (only,) = parse(file, text.encode())
    return only.tree


def refused(text: str | bytes, file: str = "x.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(file, text if isinstance(text, bytes) else text.encode())
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: 1.5", 1.5),
        ("a: -3", -3),
        ("a: 1e3", 1000.0),
        ("a: true", True),
        ("a: null", None),
        ("a: ~", None),
        ("a:", None),
        ("a: 'true'", "true"),
        ('a: "1"', "1"),
        ("a: !!str 1", "1"),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        # what YAML 1.1 would have turned into something else
        ("a: no", "no"),
        ("a: on", "on"),
        ("a: 12:30:00", "12:30:00"),
        ("a: 2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("a: 010", "010"),
        ("a: 0x10", "0x10"),
        ("a: 1_000", "1_000"),
        ("a: .inf", ".inf"),
        ("a: 1e999", "1e999"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = tree(text)["a"]
    assert (found, type(found)) == (value, type(value))


def test_documents_are_numbered_as_written_and_empty_ones_skipped() -> None:
    found = parse("x.yaml", b"a: 1\n---\n---\n# nothing\n---\na: 2\n")
    assert [(d.number, d.tree) for d in found] == [(1, {"a": 1}), (4, {"a": 2})]
    assert found[1].place == "x.yaml, document 4"


def test_a_list_is_its_items() -> None:
    found = parse("x.json", b'{"kind": "List", "apiVersion": "v1", "items": [{"a": 1}, {"a": 2}]}')
    assert [(d.place, d.tree) for d in found] == [
        ("x.json, document 1, item 0", {"a": 1}),
        ("x.json, document 1, item 1", {"a": 2}),
    ]


def test_anchors_and_merges() -> None:
    assert tree("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [{p: 9}, *x]}") == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 3},
        "c": {"p": 9, "q": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml, line 3: duplicate key 'a'"),
        ("a: {b: 1, b: 2}", "x.yaml, line 1: duplicate key 'b'"),
        ("a: [1", "not valid YAML"),
        ("a: *nowhere", "alias *nowhere has no anchor"),
        ("a: &x [*x]", "alias *x has no anchor"),
        ("? [1]\n: 2", "a key must be a string"),
        ("a: !!python/object/apply:os.getcwd []", "is not supported"),
        ("a: !!int x", "does not fit"),
        ("a: {<<: 1}", "<< merges mappings only"),
        ("[" * 100, "nested deeper than"),
        (b"\xff", "not UTF-8"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_refused(text: str | bytes, message: str) -> None:
    assert message in refused(text)


def test_aliases_count_at_their_expanded_size() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    assert "aliases counted in full" in refused(laughs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": NaN}', "not a finite number"),
        ('{"a": 1e999}', "not a finite number"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_refused(text: str, message: str) -> None:
    assert message in refused(text, "x.json")


def test_a_document_does_not_show_its_content() -> None:
    (secret,) = parse("x.yaml", b"kind: Secret\nstringData: {key: sk-hidden}")
    assert "sk-hidden" not in repr(secret)


@given(st.binary(max_size=200) | st.text("abc:{}[],&*!?|>-#'\"\n <~%@`1", max_size=60).map(str.encode))
def test_any_bytes_parse_or_are_refused(text: bytes) -> None:
    for file in ("x.yaml", "x.json"):
        with contextlib.suppress(ConfigError):
            parse(file, text)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text("abc 1:#-", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), plain, min_size=1))
def test_what_a_dumper_writes_reads_back(value: dict[str, object]) -> None:
    assert tree(yaml.safe_dump(value)) == value


def test_without_libyaml_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: &x {p: [1, 'two', ~]}\nb: {<<: *x}\n---\nc: |\n  t\n"
    fast = [d.tree for d in parse("x.yaml", text.encode())]
    monkeypatch.delattr(document.yaml, "CSafeLoader", raising=False)
    assert [d.tree for d in parse("x.yaml", text.encode())] == fast
