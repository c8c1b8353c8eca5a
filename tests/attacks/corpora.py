"""Attacks as paragraphs of a text file: what becomes of one, its name, its bytes in Python's escapes. (IO)

A space beside a word in capitals that stands for bytes is there to be read, and not part of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_HERE = Path(__file__).parent / "corpus"


class Attack(NamedTuple):
    verdict: str
    name: str
    data: bytes


def attacks(file: str, words: Mapping[str, bytes]) -> list[Attack]:
    """Those of a file. ``words``: what stands for which bytes."""
    found = []
    for paragraph in (_HERE / file).read_text().strip().split("\n\n")[1:]:
        if not paragraph.startswith("#"):
            head, data = paragraph.split("\n")
            verdict, _, name = head.partition(" ")
            found.append(Attack(verdict, name, _spelt(data, words)))
    return found


def _spelt(data: str, words: Mapping[str, bytes]) -> bytes:
    plain: bytes = ast.literal_eval('b"' + data.replace('"', '\\"') + '"')
    others = "|".join(sorted(words, key=len, reverse=True))
    spelling = re.compile(rf" ?(EVIL|HIDDEN) ?|(CHAT|JSON) |({others})".encode())
    return spelling.sub(lambda at: words[at[at.lastindex or 0].decode()], plain)
