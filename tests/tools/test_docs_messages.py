"""What documents quote as the program's words are its words."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "docs" / "kubernetes.md"


@cache
def words() -> str:
    """Everything that the gateway may say: its literals; what is filled in is a line end."""
    found = []
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "\n" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def quoted() -> list[str]:
    """What the table of symptoms has between backticks that is words, not a name, path or command."""
    table = KUBERNETES.read_text().partition("## Troubleshooting")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    texts = [text for row in rows for text in re.findall(r"`([^`]+)`", " | ".join(row.split("|")[1:3]))]
    return sorted({text for text in texts if text.count(" ") > 1 and not text.startswith(("kubectl", "infer-gateway"))})


def reasons() -> list[str]:
    """Reasons of conditions, in tables."""
    rows = [line for line in KUBERNETES.read_text().splitlines() if line.startswith("|")]
    return sorted({word for row in rows for word in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", row)})


def clauses(text: str) -> list[str]:
    """Pieces between what is filled in."""
    return [piece.strip() for piece in re.split(r'[…"]|\b0\.0\.0\.0\b', text) if len(piece.strip()) > 3]


@pytest.mark.parametrize("text", quoted())
def test_the_program_says_so(text: str) -> None:
    said = words()
    missing = [piece for piece in clauses(text) if not found(piece, said)]
    assert not missing


def found(piece: str, said: str) -> bool:
    """As a whole, or the ends and beginnings of literals that may follow one another."""
    if piece in said:
        return True
    parts = re.split(r"(?<=[:;,]) ", piece)
    return len(parts) > 1 and all(part.rstrip(":;,") in said for part in parts)


@pytest.mark.parametrize("word", reasons())
def test_the_reason_exists(word: str) -> None:
    assert word in words()


def test_there_is_something_to_look_at() -> None:
    assert len(quoted()) > 12
    assert "BackendNotFound" in reasons()
