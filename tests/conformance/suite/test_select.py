"""Selection expressions say what they select, or where they are wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.suite.case import Case, Level
from conformance.suite.select import parse


async def nothing(target: object) -> None: ...


def case(id: str, level: Level = Level.MUST, profile: str = "openai") -> Case:
    return Case(id, "", "", level, profile, nothing)


CASES = [
    case("openai.stream.done-once"),
    case("openai.stream.usage", Level.SHOULD),
    case("openai.tools.stream"),
    case("openai.models.list"),
    case("vllm.metrics.running", Level.INFO, "engine/vllm"),
]


def selected(text: str) -> list[str]:
    selects = parse(text)
    return [case.id.partition(".")[2] for case in CASES if selects(case)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ["stream.done-once", "stream.usage", "tools.stream", "models.list", "metrics.running"]),
        ("stream", ["stream.done-once", "stream.usage", "tools.stream"]),
        ("stream and not tools", ["stream.done-once", "stream.usage"]),
        ("stream not tools", ["stream.done-once", "stream.usage"]),
        ("openai.stream.*", ["stream.done-once", "stream.usage"]),
        ("models or metrics and running", ["models.list", "metrics.running"]),
        ("(models or metrics) and running", ["metrics.running"]),
        ("not (stream or level:info)", ["models.list"]),
        ("level:should", ["stream.usage"]),
        ("profile:vllm or profile:engine/vllm", ["metrics.running"]),
        ("not not list", ["models.list"]),
        ("nothing-of-the-kind", []),
    ],
)
def test_what_is_selected(text: str, wanted: list[str]) -> None:
    assert selected(text) == wanted


@pytest.mark.parametrize(
    "text", ["and", "a and", "a or or b", "(a", "a)", "not", "()", "level:most", "a ) b", "(" * 500 + "a" + ")" * 500]
)
def test_what_cannot_be_read_shows_where(text: str) -> None:
    with pytest.raises(ValueError, match="⟪here⟫"):
        parse(text)


@given(st.text(alphabet="ab*?[]() :levlmustandornot", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        selects = parse(text)
    except ValueError:
        return
    for one in CASES:
        selects(one)
