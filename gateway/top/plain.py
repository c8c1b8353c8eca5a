"""Strings and numbers as a terminal may show them. (P)

Invariant: what `plain` returns is one line of characters that take one or two cells each, whatever it is given; what
the others return is as wide as their docstring says.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from typing import Final

from rich.cells import cell_len, get_character_cell_size

UNSHOWN: Final = "\N{REPLACEMENT CHARACTER}"
LONGEST: Final = 240
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_RIGHT_TO_LEFT: Final = frozenset(("R", "AL", "AN", "RLE", "RLO", "RLI"))
_SELECTORS: Final = range(0xFE00, 0xFE10)
_FLAGS: Final = range(0x1F1E6, 0x1F200)
_TONES: Final = range(0x1F3FB, 0x1F400)
"""Regional indicators and skin tones: how wide two of them are depends on the terminal."""
_LIGATURES: Final = range(0xFDF0, 0xFE00)
"""Whole Arabic phrases as a character, far wider than the one cell they are said to take."""


def plain(value: object, most: int = LONGEST) -> str:
    """``value`` in at most so many characters; "" if it is neither text nor a number.

    Control characters, line ends, what has no width, what changes directions, halves of surrogate pairs and what no
    Unicode names are replaced. Right-to-left letters are, too: terminals that reorder a line would show the numbers
    beside them in each other's columns.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python writes
        return UNSHOWN
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_shown, unicodedata.normalize("NFC", text[: most + 1])))
    return text if len(text) <= most else text[: most - 1] + "…"


@lru_cache(4096)
def _shown(character: str) -> str:
    code = ord(character)
    if code in _SELECTORS:
        return ""
    if character == " ":
        return " "
    hidden = (
        unicodedata.category(character)[0] in "CZM"
        or unicodedata.bidirectional(character) in _RIGHT_TO_LEFT
        or code in _FLAGS
        or code in _TONES
        or code in _LIGATURES
        or not get_character_cell_size(character)
    )
    return UNSHOWN if hidden else character


def fit(text: str, width: int, right: bool = False, tail: bool = False) -> str:
    """``text``, which is plain, in exactly ``width`` cells: cut with an ellipsis, before its ``tail`` if that is what
    tells it from others, or filled up with blanks.
    """
    if width <= 0:
        return ""
    wide = cell_len(text)
    if wide > width:
        text = "…" + _cut(text[::-1], width - 1)[::-1] if tail else _cut(text, width - 1) + "…"
        wide = cell_len(text)
    blanks = " " * (width - wide)
    return blanks + text if right else text + blanks


def _cut(text: str, width: int) -> str:
    taken = 0
    for at, character in enumerate(text):
        taken += get_character_cell_size(character)
        if taken > width:
            return text[:at]
    return text


def count(value: float | None) -> str:
    """A number or a rate in at most six cells: 0, 0.25, 12.5, 1234, 12.3k, 4.5M; "-" for None."""
    if value is None or not isfinite(value):
        return "-"
    size = abs(value)
    if size < 10_000:
        return _short(value, 2 if size < 1 else 1 if size < 100 else 0)
    for unit in "kMGTPE":
        size /= 1000
        value /= 1000
        if size < 999.5:
            return _short(value, 1 if size < 100 else 0) + unit
    return ">1000E" if value > 0 else "<-999E"


def _short(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    if digits:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def seconds(value: float | None) -> str:
    """A duration in at most six cells: 850µs, 120ms, 3.4s, 12m30s, 5h12m, 3d4h; "-" for None."""
    if value is None or not isfinite(value) or value < 0:
        return "-"
    if value < 0.0995:
        return f"{value * 1e6:.0f}µs" if 0 < value < 0.0009995 else f"{value * 1e3:.0f}ms"
    if value < 0.9995:
        return f"{value * 1e3:.0f}ms"
    if value < 59.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    days = whole // 86400
    return f"{days}d{whole % 86400 // 3600}h" if days < 100 else f"{days}d" if days < 99_999 else ">99ky"


def percent(value: float | None) -> str:
    """A ratio in at most five cells; "-" for None."""
    if value is None or not isfinite(value):
        return "-"
    return f"{value:.0%}" if -1 < value < 10 else ">999%" if value > 0 else "<-99%"


def bar(value: float | None, width: int) -> str:
    """A ratio as a bar of exactly ``width`` cells; blank for None."""
    if value is None or not isfinite(value):
        return " " * width
    full = round(min(1.0, max(0.0, value)) * width)
    return "█" * full + "░" * (width - full)


def versus(share: float | None, fair: float | None, width: int) -> str:
    """``share`` as a bar of exactly ``width`` cells with a mark where it would be fair."""
    drawn = bar(share, width)
    if fair is None or not isfinite(fair):
        return drawn
    at = max(0, round(min(1.0, max(0.0, fair)) * width) - 1)
    return drawn[:at] + "┃" + drawn[at + 1 :]


def spark(values: Sequence[float | None], width: int) -> str:
    """All values as blocks between nothing and the highest, in exactly ``width`` cells, the newest right; where there
    are more values than cells, each is the mean of as many.
    """
    if width <= 0:
        return ""
    each = max(1, len(values) // width)
    last = values[max(0, len(values) - each * width) :]
    means = [_mean(last[at : at + each]) for at in range(0, len(last), each)]
    top = max((mean for mean in means if mean is not None), default=0.0)
    return "".join(" " if mean is None else _block(mean, top) for mean in means).rjust(width)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and isfinite(value)]
    return sum(value / len(known) for value in known) if known else None  # divided first: the sum may be none


def _block(value: float, top: float) -> str:
    if top <= 0 or value <= 0:
        return _BLOCKS[0]
    return _BLOCKS[min(7, int(value / top * 7.999))]
