"""Any text as the value of a label: bounded in length, printable, and another one for another text. (P)"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

LENGTH: Final = 256
_MARK: Final = 9


def label(text: str) -> str:
    """``text`` as it is, if it is printable and at most 256 characters long. Otherwise what is printable of its
    beginning, and a digest of all of it, so that two texts stay two labels; a label is its own label.
    """
    if len(text) <= LENGTH and text.isprintable():
        return text
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: LENGTH - _MARK])
    return f"{shown}~{digest}"
