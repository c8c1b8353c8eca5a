"""Reports are whole, read back, and hold nothing but text of what servers said."""

import os
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.suite import reports
from conformance.suite.case import Level
from conformance.suite.outcome import Exchange, Kind, Result, Run, Server
from conformance.suite.reports import html, junit, plain
from conformance.suite.terminal import Terminal


def result(case: str, kind: Kind, level: Level = Level.MUST, **more: object) -> Result:
    return Result(case, f"title of {case}", "the specification", level, case.partition(".")[0], kind, 0.25, **more)  # type: ignore[arg-type]


def exchange(answer: str, command: str = "curl x") -> Exchange:
    return Exchange("POST", "http://h/v1", "{}", 500, (("x", answer),), answer, "", command, 0.1)


def run(*results: Result) -> Run:
    server = Server("http://127.0.0.1:1", "vllm", "0.33.0", "m", ("m",))
    return Run(server, ("openai", "engine/vllm"), results, 1.5, 1_790_000_000.0, "0.1.0")


MIXED = run(
    result("openai.a", Kind.PASSED, notes=("learned",)),
    result("openai.b", Kind.FAILED, message="wrong", expected="1", got="2", exchanges=(exchange("no"),)),
    result("openai.c", Kind.FAILED, Level.SHOULD, message="could be better"),
    result("openai.d", Kind.DEVIATED, message="known"),
    result("openai.e", Kind.SKIPPED, message="needs --lora"),
)


def test_what_counts() -> None:
    assert [r.case for r in MIXED.wrong()] == ["openai.b"]
    assert [r.case for r in MIXED.wrong(strict=True)] == ["openai.b", "openai.c"]
    assert MIXED.badge() == "vllm 0.33.0 does not conform: 1/4 (openai, engine/vllm, 1 known deviation)"
    assert run(result("openai.a", Kind.PASSED)).badge() == "vllm 0.33.0 conforms: 1/1 (openai, engine/vllm)"
    some = msgspec.structs.replace(run(result("openai.a", Kind.PASSED)), selected="openai.a or b")
    assert some.badge() == "vllm 0.33.0 conforms: 1/1 (openai, engine/vllm; only openai.a or b)"
    assert "does not conform: 0/0" in run(result("openai.a", Kind.SKIPPED)).badge()


def test_json_reads_back() -> None:
    data = plain.write(MIXED)
    assert plain.read(data) == MIXED
    assert b'"failed": 2' in data


def test_junit_is_red_for_musts_only() -> None:
    root = ElementTree.fromstring(junit.write(MIXED))
    (suite,) = root.findall("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "skipped": "3",
    }
    (failure,) = root.iter("failure")
    assert failure.get("message") == "wrong"
    assert failure.text is not None
    assert "again: curl x" in failure.text


class Tags(HTMLParser):
    """Tags and attributes of a page, and whether all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") or name in ("href", "src") for name, _ in attrs)
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def tags(page: bytes) -> Tags:
    found = Tags()
    found.feed(page.decode())
    found.close()
    assert found.open == []
    return found


def test_the_page_tells_everything() -> None:
    page = tags(html.write(MIXED))
    for text in ("does not conform: 1/4", "title of openai.b", "wrong", "curl x", "needs --lora", "learned", "known"):
        assert text in page.text
    assert "script" not in page.seen


def test_failures_are_open_unless_they_are_many() -> None:
    few, many = (run(*(result(f"openai.{at}", Kind.FAILED) for at in range(count))) for count in (10, 11))
    assert html.write(few).count(b" open><summary>") == 10
    assert b" open><summary>" not in html.write(many)


def test_profiles_stand_in_the_order_they_were_asked_in() -> None:
    results = run(result("vllm.a", Kind.PASSED), result("openai.a", Kind.PASSED))
    results = msgspec.structs.replace(results, profiles=("openai", "vllm"))
    page = tags(html.write(results)).text
    assert page.index("title of openai.a") < page.index("title of vllm.a")


NASTY = st.text(alphabet="<>&\"'/= scriptonload\x00\x1b\ud7ff\ufffe\n]", max_size=60)


@given(NASTY, NASTY)
def test_what_a_server_says_is_text(said: str, name: str) -> None:
    nasty = run(
        result(
            "openai.b",
            Kind.FAILED,
            message=said,
            expected=said,
            got=said,
            notes=(said,),
            exchanges=(exchange(said, name),),
        )
    )
    assert tags(html.write(nasty)).seen <= tags(html.write(MIXED)).seen
    ElementTree.fromstring(junit.write(nasty))
    assert plain.read(plain.write(nasty)) == nasty


def test_a_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    nasty = result("openai.b", Kind.FAILED, message="\x1b[2Jgone\u202e", got="\x07", exchanges=(exchange("\x9b31m"),))
    with (tmp_path / "out").open("w+") as out:
        terminal = Terminal(1, out=out)
        with terminal:
            terminal.tell(nasty)
        terminal.end(run(nasty))
        out.seek(0)
        text = out.read()
    assert "gone" in text
    assert not any(char in text for char in "\x1b\x07\x9b\u202e")


def test_a_terminal_whose_reader_left_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        terminal = Terminal(5, verbose=True, out=out)
        with terminal:
            for each in MIXED.results:
                terminal.tell(each)
        terminal.end(MIXED)
    assert terminal.found.total() == 5


def test_a_terminal_without_unicode_gets_question_marks(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        Terminal(5, out=out).end(MIXED)
    assert "? openai.b (must) ? title of openai.b" in (tmp_path / "out").read_text()


def test_a_report_is_written_by_its_name(tmp_path: Path) -> None:
    for name in ("deep/er/a.json", "b.xml", "c.HTML"):
        reports.save(MIXED, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.xml", "c.HTML", "deep"]
    with pytest.raises(ValueError, match="report is a"):
        reports.save(MIXED, tmp_path / "a.pdf")
