from __future__ import annotations

import pytest

from protocols.extproc.subset import parsed, within


@pytest.mark.parametrize(
    ("hint", "names"),
    [
        (None, None),
        ([], ()),
        ("", ()),
        (" , ", ()),
        ("10.0.0.1:8000", ("10.0.0.1:8000",)),
        ("10.0.0.1:8000, 10.0.0.2", ("10.0.0.1:8000", "10.0.0.2")),
        (["10.0.0.1:8000", " [::1]:80 ", ""], ("10.0.0.1:8000", "[::1]:80")),
    ],
)
def test_hints(hint: str | list[str] | None, names: tuple[str, ...] | None) -> None:
    assert parsed(hint) == names


@pytest.mark.parametrize(
    ("wanted", "allowed", "both"),
    [
        (["a:1"], None, ("a:1",)),
        (["a:1"], (), ()),
        (["a:1", "b:1"], ("a:1",), ("a:1",)),
        (["a"], ("a:1", "a:2", "b:1"), ("a:1", "a:2")),
        (["a:1"], ("a",), ("a:1",)),
        (["a:1"], ("a:2",), ()),
        (["a", "a:1"], ("a",), ("a", "a:1")),
        (["::1"], ("[::1]:80",), ("[::1]:80",)),
        (["[::1]:80"], ("::1", "[::1]:81"), ("[::1]:80",)),
        (["fe80::1"], ("fe80:",), ()),
    ],
)
def test_the_narrower_remains(wanted: list[str], allowed: tuple[str, ...] | None, both: tuple[str, ...]) -> None:
    assert within(wanted, allowed) == both
