"""The reference pages are as the program is, and a field, option or error that nobody has explained is found."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from gateway.config.decode import Duration, Limit, Section
from tools import generate_reference
from tools.reference import commands, errors, markdown, sections
from tools.size_check import sources


class Inner(Section, frozen=True):
    """What is inside. ``depth``: how deep."""

    depth: Annotated[int, Meta(ge=1, le=9)] = 3


class Outer(Section, frozen=True):
    """The whole. ``share_of``: a share. ``wait``: how long."""

    share_of: Annotated[float, Meta(gt=0)]
    wait: Limit = Limit(float("inf"))
    pause: Duration = Duration(0.25)
    items: tuple[Inner, ...] = ()
    again: Inner = Inner()


def test_pages_are_up_to_date() -> None:
    assert generate_reference.main(["--check"]) == 0


def test_a_page_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_reference.main([], tmp_path) == 0
    (tmp_path / "cli.md").write_text("old")
    (tmp_path / "errors.md").unlink()
    assert generate_reference.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["cli.md", "errors.md"]


def test_fields_with_type_default_range_and_meaning() -> None:
    book = sections.Book("")
    book.add(Outer, "", "Whole", 2)
    assert "| `shareOf` | number | **needed** | above 0 | A share. |" in book.text
    assert "| `wait` | duration, 0 for none | `0` | | How long. |" in book.text
    assert "| `items` | list of: [object](#items) | none | | What is inside. |" in book.text
    assert "| `again` | [object](#items) | |  | What is inside. |" in book.text
    assert "### items[]\n\nWhat is inside.\n\n" in book.text
    assert "| `depth` | integer | `3` | ≥ 1; ≤ 9 | How deep. |" in book.text
    assert book.lacking == ["pause (Outer.pause)"]


def test_no_two_sections_have_one_heading() -> None:
    for page in (sections.settings, sections.resources):
        heads = [line for line in page()[0].splitlines() if line.startswith("#")]
        assert len(set(heads)) == len(heads)
    assert "(#schedulersaturation-concurrency-detector)" in sections.settings()[0]


def test_options_that_say_nothing() -> None:
    top = argparse.ArgumentParser("infer-gateway")
    command = top.add_subparsers().add_parser("serve", help="run it")
    command.add_argument("--port", type=int, default=7, metavar="N", help="one of 100%% of them")
    command.add_argument("--quiet", action="store_true")
    lacking: list[str] = []
    [(name, parser, about)] = commands._commands(top)
    text = commands._described(name, parser, about, lacking)
    assert "| `--port N` | `7` | one of 100% of them |" in text
    assert lacking == ["infer-gateway serve ['--quiet']"]


def test_marks_are_not_taken_for_such() -> None:
    assert markdown.plain("a*b|c [d] ``e_f``  g_h") == r"a\*b\|c \[d\] `e_f` g\_h"


def test_every_word_for_no_room_is_explained() -> None:
    used = {"queue_timeout"}
    for path in sources(generate_reference.ROOT):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Overloaded":
                used |= {word.value.value for word in node.keywords if _constant(word)}
    assert used <= errors.WHYS.keys()
    assert {"queue_full", "sheddable"} <= used


def _constant(word: ast.keyword) -> bool:
    return word.arg == "why" and isinstance(word.value, ast.Constant)
