"""How fast one endpoint is, learned from what it does: seconds a prompt token, seconds a step of decoding. (P)"""

from __future__ import annotations

from typing import Final

DEFAULT_PREFILL: Final = 1 / 8000
"""Seconds a token until something is known: a mid-sized model on one accelerator."""


class Speed:
    """``prefill``: seconds an uncached prompt token takes. ``decode``: seconds between two tokens, 0 if unknown."""

    __slots__ = ("decode", "prefill")

    def __init__(self) -> None:
        self.prefill = DEFAULT_PREFILL
        self.decode = 0.0
