"""Expressions as Hypothesis makes them up: of what both languages have, and of what only looks alike."""

from __future__ import annotations

from hypothesis import strategies as st

_ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "/",
        "-",
        "1",
        ".",
        r"\d",
        r"\w",
        r"\.",
        r"\D",
        r"\W",
        "[ab]",
        "[^/]",
        "[^ab/]",
        "[a-z-]",
        r"[\w.]",
        "é",
        "\n",
    ]
)
_REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "+?", "*?", "{0,5}?"])


def patterns(*, wild: bool = False) -> st.SearchStrategy[str]:
    """``wild``: with groups that are repeated, and with what is read in two ways."""
    repeats = _REPEATS if wild else st.sampled_from(["", "", "?"])
    atoms = _ATOMS | st.sampled_from(["$", "^", r"\b", r"\s", "(?i)k", "[[:alpha:]]", "]", "{"]) if wild else _ATOMS
    single = st.builds(str.__add__, atoms, _REPEATS)

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = st.builds(
            "{}{})".format, st.sampled_from(["(", "(?:"]), st.lists(inner, min_size=1, max_size=3).map("|".join)
        )
        return st.lists(inner | st.builds(str.__add__, group, repeats), max_size=4).map("".join)

    ends = st.sampled_from(["{}", "{}", "^{}", "{}$", "^{}$"])
    return st.builds(str.format, ends, st.recursive(single, grown, max_leaves=8))
