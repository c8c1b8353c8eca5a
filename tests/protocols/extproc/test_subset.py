from __future__ import annotations

import pytest

from protocols.extproc import subset
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


def test_each_name_is_looked_at_once_or_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that names thousands, a proxy that allows thousands: their product is the pause of everybody."""
    seen: list[str] = []
    host = subset._host
    monkeypatch.setattr(subset, "_host", lambda name: seen.append(name) or host(name))
    wanted = [f"10.0.{n % 250}.{n // 250}:81" for n in range(2000)]
    allowed = tuple(f"10.0.{n % 250}.{n // 250}:80" for n in range(2000))
    assert within([*wanted, allowed[7]], allowed) == (allowed[7],)
    assert len(seen) <= 2 * (len(wanted) + len(allowed))
