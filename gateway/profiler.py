"""Where the program spends its time: the main thread's stack, looked at again and again from another one. (IO)

Invariant: only names of functions and places in files are seen, no values; what is kept is bounded, and so is the time.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import trio

_DEPTH: Final = 128
_STACKS: Final = 20_000
_ROOT: Final = Path(__file__).resolve().parent.parent

Stack = tuple[CodeType, ...]
"""The outermost function first."""


class Stacks:
    """How often each stack was seen."""

    def __init__(self) -> None:
        self.seen: Counter[Stack] = Counter()

    def look(self, thread: int) -> None:
        """Once more at what that thread is doing."""
        frame: FrameType | None = sys._current_frames().get(thread)
        codes: list[CodeType] = []
        while frame is not None and len(codes) < _DEPTH:
            codes.append(frame.f_code)
            frame = frame.f_back
        stack = tuple(reversed(codes))
        if stack in self.seen or len(self.seen) < _STACKS:
            self.seen[stack] += 1

    def collapsed(self) -> str:
        """A line a stack, as flame graphs are made of: functions from the outermost on, and how often."""
        lines = Counter[str]()
        for stack, count in self.seen.items():
            lines[";".join(map(_name, stack))] += count
        return "".join(f"{line} {count}\n" for line, count in sorted(lines.items()))

    def speedscope(self, hz: float) -> dict[str, Any]:
        """A file for speedscope; weights are seconds."""
        codes = dict.fromkeys(code for stack in self.seen for code in stack)
        numbers = {code: number for number, code in enumerate(codes)}
        weights = [count / hz for count in self.seen.values()]
        return {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": "infer-gateway",
            "shared": {
                "frames": [
                    {"name": code.co_qualname, "file": _place(code), "line": code.co_firstlineno} for code in codes
                ]
            },
            "profiles": [
                {
                    "type": "sampled",
                    "name": "main thread",
                    "unit": "seconds",
                    "startValue": 0,
                    "endValue": sum(weights),
                    "samples": [[numbers[code] for code in stack] for stack in self.seen],
                    "weights": weights,
                }
            ],
        }


class Profiler:
    """``busy`` while a profile is taken."""

    def __init__(self) -> None:
        self.busy = False

    async def take(self, seconds: float, hz: float) -> Stacks:
        """Look ``hz`` times a second for so long. Cancelled, it stops looking. Not while it is ``busy``."""
        stop = threading.Event()
        self.busy = True
        try:
            look = trio.to_thread.run_sync
            return await look(_watch, threading.get_ident(), seconds, hz, stop, abandon_on_cancel=True)
        finally:
            stop.set()
            self.busy = False


def _watch(thread: int, seconds: float, hz: float, stop: threading.Event) -> Stacks:
    stacks = Stacks()
    for _ in range(max(1, round(seconds * hz))):
        if stop.wait(1.0 / hz):
            break
        stacks.look(thread)
    return stacks


def _name(code: CodeType) -> str:
    return f"{code.co_qualname} ({_place(code)}:{code.co_firstlineno})".replace(";", ",").replace("\n", " ")


def _place(code: CodeType) -> str:
    """The file, from a package's folder on."""
    path = Path(code.co_filename)
    if path.is_relative_to(_ROOT) and "site-packages" not in path.parts:
        return str(path.relative_to(_ROOT))
    return "/".join(path.parts[-2:])
