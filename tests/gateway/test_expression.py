"""Patterns of operators and of cluster objects: RE2's, whoever runs them, and never slow."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway import expression, linear
from gateway.expression import PROGRAM, TOGETHER, WORK, Allowance, Expression
from tests.gateway.patterns import patterns


@pytest.fixture(autouse=True)
def another_request() -> None:
    expression.afresh()


def by_re2(text: str, *, whole: bool) -> Expression:
    """Without the interpreter's own matcher."""
    made = Expression("", whole=whole)
    made._match, made.size = expression._foreign(text, whole)
    return made


@given(patterns(), st.text("abk/-.1é\n\u212a٣", max_size=12), st.booleans())
@example("a$", "a\n", False)
@example(r"\d", "٣", True)
@example(r"\w", "é", True)
@example("[^/]", "\n", True)
@example("", "", True)
@example("[ -~]+", "a~", True)
@example(r"[^\]]", "]", True)
def test_both_matchers_say_the_same(pattern: str, text: str, whole: bool) -> None:
    assume(linear.plan(pattern, whole=whole) is not None)
    assert Expression(pattern, whole=whole).holds(text) is by_re2(pattern, whole=whole).holds(text)


@given(
    patterns(wild=True) | st.text("ab()[]{}|*+?^$\\.-:,12", max_size=10), st.text("abk/\n", max_size=8), st.booleans()
)
def test_both_matchers_accept_the_same(pattern: str, text: str, whole: bool) -> None:
    try:
        theirs = by_re2(pattern, whole=whole)
    except ValueError:
        assert linear.plan(pattern, whole=whole) is None
        return
    assert Expression(pattern, whole=whole).holds(text) is theirs.holds(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(?:a+)+b", "a" * 65536),
        (r"(a|aa)+$", "a" * 65535 + "b"),
        (r"(.*)*x", "a" * 65536),
        (r".*a.*b.*c.*d", "ab" * 32768),
        (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 65536),
        (r"(?:a?){50}a{50}", "a" * 49),
        (r"(?:\w+\s?)*$", "a" * 65535 + "!"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_would_be_slow_is_given_to_re2(pattern: str, text: str, *, whole: bool) -> None:
    """The interpreter's own matcher would not come back from any of these."""
    assert linear.plan(pattern, whole=whole) is None
    assert isinstance(Expression(pattern, whole=whole).holds(text), bool)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?=a)b", "not a regular expression of RE2: invalid perl operator: (?="),
        (r"(a)\1", r"not a regular expression of RE2: invalid escape sequence: \1"),
        ("(", "not a regular expression of RE2: missing ): ("),
        ("a++", "not a regular expression of RE2: bad repetition operator: ++"),
        ("a{1001}", "not a regular expression of RE2: invalid repetition size: {1001}"),
        ("[z-a]", "not a regular expression of RE2: invalid character class range: z-a"),
        (r"\pL{1000}", "too large a regular expression"),
        (r"\p{Greek}" * 5, "too large a regular expression"),
        ("(?:a?){1000}(?:x?){1000}", "too large a regular expression"),
        ("\ud800+a", "not a regular expression: half a surrogate pair"),
    ],
)
def test_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Expression(pattern, whole=True)
    assert str(caught.value).startswith(words)


def test_programs_are_bounded() -> None:
    assert Expression("(?:b?){1000}c", whole=True).holds("bbc")
    with pytest.raises(ValueError, match="too large"):
        Expression("(?:b?){1000}(?:c?){50}", whole=True)


def test_work_is_bounded() -> None:
    """What has many instructions is run on short texts alone."""
    large, small = Expression("(?:b?){1000}.*c", whole=True), Expression("(?:b.*)+c", whole=True)
    assert large.holds("b" * (WORK // PROGRAM - 1) + "c")
    assert not large.holds("b" * (WORK // 1000) + "c")
    assert small.holds("b" * 65535 + "c")


@pytest.mark.parametrize(
    ("pattern", "part"),
    [(r"(?:a|c)*a[ac]{12}b", "ac"), ("^[^b]*" + "(?:a|b|c|d|e|f)" * 3, "a"), ("(?:a?){1000}b", "a")],
)
def test_the_work_for_one_request_is_bounded(pattern: str, part: str) -> None:
    """There may be any number of expressions, all for one long text."""
    made, text = Expression(pattern, whole=False), part * (4000 // len(part))
    tried = 0
    while Expression("^", whole=False).holds(text):
        made.holds(text)
        tried += 1
    assert 1 < tried < 1000
    expression.afresh()
    assert Expression("^", whole=False).holds(text)
    assert made.holds("aaaaaaaaaaaaab")


def test_expressions_of_one_object_are_bounded_together() -> None:
    """A character counts as much as an instruction: the interpreter's own compiler is the slower one."""
    for pattern in ("a" * 1024, "(?:b?){500}c"):
        allowance = Allowance()
        for _ in range(TOGETHER // Expression(pattern, whole=True).size):
            assert allowance.read(pattern, whole=True) is not None
        with pytest.raises(ValueError, match="with this one the regular expressions are too large together"):
            allowance.read(pattern, whole=True)
        assert allowance.read("a", whole=True) is None


def test_the_wider_language() -> None:
    assert Expression(r"\pL+", whole=True).holds("é")
    assert Expression(r"(?i)k", whole=True).holds("\u212a")
    assert Expression(r"(?P<name>a|b)+\z", whole=False).holds("xab")
    assert not Expression(r"\s", whole=True).holds("\x85")


def test_half_a_pair_in_a_text_is_no_character() -> None:
    for pattern in (r"\pL", r"(?:a|a)+"):
        assert not Expression(pattern, whole=True).holds("\ud800")


def test_values() -> None:
    assert Expression("a+", whole=True) == Expression("a+", whole=True)
    assert hash(Expression("(?i)a", whole=True)) == hash(Expression("(?i)a", whole=True))
    assert Expression("a+", whole=True) != Expression("a+", whole=False)
    assert Expression("a+", whole=True) != "a+"
    assert Expression("a+", whole=True).size == 2 < Expression("(?i)a", whole=True).size < 20
    assert repr(Expression("a+", whole=True)) == "Expression('a+', whole=True)"


def test_without_re2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    expression._re2.cache_clear()
    try:
        assert Expression("/v1/.*", whole=True).holds("/v1/x")
        with pytest.raises(ValueError, match=r"needs RE2, which is not installed here \(pip install google-re2\)"):
            Expression("(?:a+)+b", whole=True)
    finally:
        expression._re2.cache_clear()


def test_re2_is_imported_when_a_pattern_needs_it() -> None:
    program = (
        "import sys; from gateway.expression import Expression as E\n"
        "E('/v1/[^/]+/.*', whole=True); print('re2' in sys.modules)\n"
        "E('(a+)+', whole=True); print('re2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
