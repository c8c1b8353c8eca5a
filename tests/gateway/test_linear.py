"""Expressions that the interpreter's own matcher is given: how many steps it takes, and what it finds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import linear
from gateway.linear import Characters, Choice, Item
from tests.gateway.patterns import patterns

WHOLE = [
    "",
    "/v1/chat/completions",
    "/v1/.*",
    "/v1/(chat/)?completions",
    "/v1/(?:chat/completions|embeddings)(?:/.*)?",
    "/models/[^/]+/versions/[^/]+",
    r"/v\d+/[\w.-]+",
    "^.*$",
    "a{3}b{1,100}c{2,}",
    "[^/]{1,253}",
    "gold|silver",
    "[a-z]+?-x",
]
ANYWHERE = ["", "chat", "gold|silver", "^/v1/.*", "^b+$", r"v\d$", "^(?:gpt|claude)-.*-mini$"]
NOT = [
    r"(?:a+)+b",
    r"(a|a)*",
    r".*a.*b.*c",
    "a+a+",
    "[^/]*.*x",
    "a?" * 20 + "a" * 20,
    "(?:a|ab)(?:c|bcd)" * 8,
    "(?:a{1,100}){1,100}",
    "(" * 20 + "a" + ")" * 20,
    ".*" + "a" * 40,
]
SLOW_ANYWHERE = ["a+b", ".*a", "[^/]+/", "a*"]
DIFFERENT = [
    r"\s", r"a\b", r"\bx", r"\pL", r"\Aa", r"a\Z", r"a\z", "(?i)k", "(?s).", "(?P<n>a)", "(?=a)b", r"(a)\1", "a++",
    "(?>a)", "[[:alpha:]]", "[a--b]", "[é]", "a{,3}", "a{1001}", "a{x", "^a|b", "a|b$", "a^b", "a$b", "[]a]", "[z-a]",
    r"\x41", r"\n", "a**", "a{2}{3}", "(a", "a)", "[a", "[a\\", "*", "\\", "\ud800", "(?#x)a", "[^]", "[\\d-z]", "]",
    "}", "(?:a){2}", "a||b$", "[a-b-c]", "[\\W]", "[--a]",
]  # fmt: skip


@pytest.mark.parametrize("text", WHOLE)
def test_linear_against_whole_texts(text: str) -> None:
    assert linear.plan(text, whole=True) is not None


@pytest.mark.parametrize("text", ANYWHERE)
def test_linear_anywhere(text: str) -> None:
    assert linear.plan(text, whole=False) is not None


@pytest.mark.parametrize("text", [*NOT, *DIFFERENT])
@pytest.mark.parametrize("whole", [True, False])
def test_not_for_the_own_matcher(text: str, *, whole: bool) -> None:
    assert linear.plan(text, whole=whole) is None


@pytest.mark.parametrize("text", SLOW_ANYWHERE)
def test_not_where_it_would_be_tried_at_every_place(text: str) -> None:
    assert linear.plan(text, whole=True) is not None
    assert linear.plan(text, whole=False) is None


class Backtracking:
    """A matcher without a single shortcut, which counts the characters it compares and the branches it enters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0

    def ends(self, items: Sequence[Item], at: int) -> Iterator[int]:
        """Where a match of ``items`` from ``at`` on may end, as a backtracking matcher comes upon it."""
        if not items:
            yield at
        elif isinstance(items[0], Choice):
            for option in items[0].options:
                self.steps += 1
                yield from self.ends((*option, *items[1:]), at)
        else:
            for end in self._repeated(items[0], at):
                yield from self.ends(items[1:], end)

    def _repeated(self, item: Characters, at: int) -> Iterator[int]:
        end = at
        while (item.most is None or end - at < item.most) and self._fits(item, end):
            end += 1
        yield from range(end, at + item.least - 1, -1)

    def _fits(self, item: Characters, at: int) -> bool:
        self.steps += 1
        return at < len(self.text) and ((self.text[at] in item.known) is not item.other)


def found(plan: linear.Plan, text: str, *, whole: bool) -> tuple[bool, int]:
    """Whether it matches, and after how many steps that is known."""
    matcher = Backtracking(text)
    to_end = whole or plan.pattern.endswith(r"\Z")
    starts = range(1) if plan.begins else range(len(text) + 1)
    held = any(not to_end or end == len(text) for start in starts for end in matcher.ends(plan.items, start))
    return held, matcher.steps


TEXTS = st.one_of(
    st.text("ab/-1\n", max_size=40),
    st.builds(
        lambda part, times, end: part * times + end, st.text("ab/", max_size=2), st.integers(0, 200), st.text("abc/")
    ),
)


@given(patterns(), TEXTS, st.booleans())
@example("/models/[^/]+/versions/[^/]+", "/models/" + "a" * 300 + "/versions/", True)
@example(".*abc", "ab" * 150, True)
@example("[ab]{1,100}(?:a|b)", "a" * 150 + "c", True)
@example("a{1,9}b", "a" * 300, False)
def test_steps_are_bounded(text: str, subject: str, whole: bool) -> None:
    plan = linear.plan(text, whole=whole)
    if plan is None:
        return
    held, steps = found(plan, subject, whole=whole)
    assert steps <= plan.constant + plan.factor * (len(subject) + 1)
    compiled = re.compile(plan.pattern, re.ASCII)
    match = compiled.fullmatch if whole else compiled.match if plan.begins else compiled.search
    assert held is (match(subject) is not None)


@pytest.mark.parametrize("text", [*WHOLE, *SLOW_ANYWHERE])
@pytest.mark.parametrize("part", ["a", "/", "/models/", "1", "b", "-"])
def test_twice_the_text_is_twice_the_steps(text: str, part: str) -> None:
    plan = linear.plan(text, whole=True)
    assert plan is not None
    for times in (200, 400):
        subject = "/models/" + part * times + "!"
        assert found(plan, subject, whole=True)[1] <= plan.constant + plan.factor * (len(subject) + 1)
