"""What the one at the keyboard has chosen, and what each key makes of it. (P)"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.top.panels import PANELS
from gateway.top.plain import plain

_SEQUENCES: Final = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
    "[5~": "page up",
    "[6~": "page down",
    "[Z": "back tab",
}
_SINGLE: Final = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "erase",
    "\x03": "quit",
    "\x0c": "redraw",
}
_LONGEST: Final = 60


class View(msgspec.Struct, frozen=True):
    """``panel`` is in `PANELS`; ``sorts`` names a column of each, "" for the gateway's order; ``first`` is the row
    that stands on top; ``typing``: keys go into ``filter``.
    """

    panel: int = 0
    sorts: tuple[str, ...] = ("",) * len(PANELS)
    reverse: bool = False
    filter: str = ""
    typing: bool = False
    paused: bool = False
    help: bool = False
    first: int = 0
    quit: bool = False

    @property
    def sort(self) -> str:
        return self.sorts[self.panel]


class Keys:
    """A terminal's bytes as keys: characters, and names of more than one letter for the others."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, received: bytes) -> Iterator[str]:
        """A sequence that is not known is no key. Sequences are taken to arrive whole, as terminals send them."""
        text = self._decoder.decode(received)
        while text:
            length = _sequence(text)
            head, text = text[:length], text[length:]
            if length > 1:
                if head[1:] in _SEQUENCES:
                    yield _SEQUENCES[head[1:]]
            elif head == "\x1b":
                yield "escape"
            elif head in _SINGLE or head.isprintable():
                yield _SINGLE.get(head, head)


def _sequence(text: str) -> int:
    """The length of the key that ``text`` starts with (ECMA-48, 5.4)."""
    if text[0] != "\x1b" or len(text) == 1 or text[1] not in "[O":
        return 1
    if text[1] == "O":
        return min(3, len(text))
    for at, character in enumerate(text[2:], 2):
        if "@" <= character <= "~":
            return at + 1
    return len(text)


def press(view: View, key: str, page: int = 10) -> View:
    """``view`` after ``key``; ``page`` is how many rows are shown."""
    if view.typing:
        return _typed(view, key)
    if view.help and key != "q":
        return msgspec.structs.replace(view, help=False)
    match key:
        case "q" | "quit":
            return msgspec.structs.replace(view, quit=True)
        case "?" | "h":
            return msgspec.structs.replace(view, help=True)
        case "p" | " ":
            return msgspec.structs.replace(view, paused=not view.paused)
        case "/":
            return msgspec.structs.replace(view, typing=True)
        case "escape":
            return msgspec.structs.replace(view, filter="", first=0)
        case "s" | "S" | "r":
            return _sorted(view, key)
    return _moved(view, key, page)


def _typed(view: View, key: str) -> View:
    text = view.filter
    match key:
        case "enter" | "tab":
            return msgspec.structs.replace(view, typing=False)
        case "escape":
            return msgspec.structs.replace(view, typing=False, filter="", first=0)
        case "quit":
            return msgspec.structs.replace(view, quit=True)
        case "backspace":
            text = text[:-1]
        case "erase":
            text = ""
        case _ if len(key) == 1:
            text = (text + plain(key))[:_LONGEST]
    return msgspec.structs.replace(view, filter=text, first=0)


def _sorted(view: View, key: str) -> View:
    """The next column, or the one before; and from the other end."""
    if key == "r":
        return msgspec.structs.replace(view, reverse=not view.reverse, first=0)
    names = ["", *(column.title for column in PANELS[view.panel].columns)]
    at = names.index(view.sort) if view.sort in names else 0
    chosen = names[(at + (1 if key == "s" else -1)) % len(names)]
    return sorted_by(msgspec.structs.replace(view, first=0), view.panel, chosen)


def sorted_by(view: View, panel: int, title: str) -> View:
    sorts = (*view.sorts[:panel], title, *view.sorts[panel + 1 :])
    return msgspec.structs.replace(view, sorts=sorts)


def _moved(view: View, key: str, page: int) -> View:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -(1 << 30)}
    if key in steps:
        return msgspec.structs.replace(view, first=max(0, view.first + steps[key]))
    if key == "end":
        return msgspec.structs.replace(view, first=1 << 30)
    if key.isascii() and key.isdigit() and 1 <= int(key) <= len(PANELS):
        return msgspec.structs.replace(view, panel=int(key) - 1, first=0)
    turn = {"tab": 1, "right": 1, "back tab": -1, "left": -1}.get(key, 0)
    return msgspec.structs.replace(view, panel=(view.panel + turn) % len(PANELS), first=0 if turn else view.first)
