"""What must not be in a recording, taken out of it: keys, cookies, whose account it was, where the engine runs. (P)

Invariant: of what is given as secret, and of what looks like a key, nothing is left in anything returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Headers = Iterable[tuple[str, str]]

HIDDEN = "hidden"
"""Stands where a key was."""
HOST = "engine.example"
"""Stands where the engine's host was."""

_DROPPED = re.compile(
    r"cookie|authori[sz]ation|api-?key|token$|organi[sz]ation|project|account|^cf-|^nel$|^report-to$|^via$"
)
"""Header fields, by name, that say whose the account is, or let somebody in, or show the way the answer took."""

_KEYS = re.compile(
    rb"\b(?:sk|rk|pk|hf|gsk|xai|ghp|glpat|nvapi|csk|fw|r8)[-_][-_A-Za-z0-9]{12,}"
    rb"|\bAIza[-_A-Za-z0-9]{20,}"
    rb"|\beyJ[-_A-Za-z0-9]{8,}\.[-_A-Za-z0-9]{8,}\.[-_A-Za-z0-9]*"
    rb"|(?<=Bearer )[-._~+/A-Za-z0-9]{8,}=*",
)
"""What providers' keys look like, JSON web tokens, and whatever follows "Bearer"."""


class Scrubber:
    """``key``: the one that was sent. ``hosts``: names of the engine's machine, found as whole words: one may be called
    "a". ``replaced``: further texts → what stands for them.
    """

    def __init__(self, key: str = "", hosts: Iterable[str] = (), replaced: Mapping[str, str] | None = None) -> None:
        anywhere = {**(replaced or {}), key: HIDDEN}
        words = dict.fromkeys(hosts, HOST)
        self._texts = {text.encode(): by.encode() for text, by in {**words, **anywhere}.items() if text}
        longest_first = sorted(self._texts, key=len, reverse=True)
        patterns = [re.escape(text) if text.decode() in anywhere else _word(text) for text in longest_first]
        self._pattern = re.compile(b"|".join(patterns) or rb"(?!)")

    def body(self, data: bytes) -> bytes:
        return _KEYS.sub(HIDDEN.encode(), self._pattern.sub(lambda match: self._texts[match[0]], data))

    def text(self, value: str) -> str:
        return self.body(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def headers(self, fields: Headers, length: int) -> list[tuple[str, str]]:
        """The fields that may be kept. ``length``: of the body as it is kept, which a content-length has to tell."""
        kept = [(name, value) for name, value in fields if not _DROPPED.search(name.lower())]
        return [(n, str(length) if n.lower() == "content-length" else self.text(v)) for n, v in kept]


def _word(text: bytes) -> bytes:
    return rb"(?<![A-Za-z0-9_-])" + re.escape(text) + rb"(?![A-Za-z0-9_-])"
