"""What a page of documentation tells its reader to type, in order. (P)"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell")
_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")
_TYPED = re.compile(r"(\$ )?(infer-gateway [a-z]+ -|(make|curl|kubectl|helm|pip|docker|python3?) \S)")


class Step(NamedTuple):
    """``kind``: "command", or the language of a block that is shown. ``line``: where it stands, from 1."""

    line: int
    kind: str
    text: str


def steps(page: str) -> Iterator[Step]:
    """Commands one by one, other blocks as they are."""
    for fence in FENCE.finditer(page):
        language, code = fence[1], textwrap.dedent(fence[2])
        first = page.count("\n", 0, fence.start()) + 2
        if language == "console":
            code = "".join(f"{line[2:] if line.startswith('$ ') else ''}\n" for line in code.splitlines())
        if language in (*SHELL, "console"):
            yield from (Step(first + at, "command", text) for at, text in commands(code))
        else:
            yield Step(first, language, code)


def commands(code: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each: a line, and what follows while a quote or a document is open or a backslash ends it."""
    lines, begun = code.splitlines(), 0
    for at in range(len(lines)):
        text = "\n".join(lines[begun : at + 1])
        if at < begun or not _whole(text):
            continue
        if text.strip() and not text.lstrip().startswith("#"):
            yield begun, text
        begun = at + 1
    assert begun >= len(lines), f"does not end: {code}"


def _whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    if document := _HEREDOC.search(text):
        return text.rstrip().endswith(f"\n{document[1]}")
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def unmarked(page: str) -> list[str]:
    """Lines of blocks without a language that look as if somebody should type them."""
    blocks = (fence[2] for fence in FENCE.finditer(page) if not fence[1])
    return [line.strip() for block in blocks for line in block.splitlines() if _TYPED.match(line.strip())]
