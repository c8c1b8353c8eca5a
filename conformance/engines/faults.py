"""Failures on request: the grammar of ``--fail`` and the decision, request by request, which one strikes. (P)

``KIND[:ARG][@SELECTOR,…]``. Invariant: given the same specs, the same seed and the same order of requests, the same
requests fail in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import random

KINDS = ("refuse", "status", "hang", "stall", "cut", "rubbish", "error-event", "slow")
BREAKS = ("stall", "cut", "error-event")
"""Those that strike within the answer."""
_NUMBER = {"refuse": None, "status": 500.0, "hang": None, "stall": 0.0, "cut": 0.0, "error-event": 0.0, "slow": 1.0}


class Fault(msgspec.Struct, frozen=True):
    """One spec. ``number`` is what the kind makes of it: a status, a count of tokens, or seconds."""

    spec: str
    kind: str
    number: float = 0.0
    retry_after: float | None = None
    word: str = ""
    p: float = 1.0
    every: int = 1
    first: int | None = None
    after: int = 0
    path: str = ""
    model: str = ""

    @property
    def tokens(self) -> int:
        return int(self.number)


def parse(spec: str) -> Fault:
    """Raises ValueError saying what is wrong with ``spec``."""
    head, _, tail = spec.strip().partition("@")
    kind, _, argument = head.replace("=", ":", 1).partition(":")
    if kind.isdigit():
        kind, argument = "status", f"{kind}:{argument}" if argument else kind
    if kind not in KINDS:
        raise ValueError(f"{spec!r}: unknown kind {kind!r}; one of {', '.join(KINDS)}, or a status such as 503")
    values = _argument(spec, kind, argument)
    for part in filter(None, tail.split(",")):
        name, _, value = part.partition("=")
        values[name.strip()] = _selector(spec, name.strip(), value.strip())
    return Fault(spec=spec, kind=kind, **values)


def _argument(spec: str, kind: str, argument: str) -> dict[str, Any]:
    if kind == "rubbish":
        word = argument or "json"
        if word not in ("json", "http", "sse"):
            raise ValueError(f"{spec!r}: rubbish is json, http or sse")
        return {"word": word}
    default = _NUMBER[kind]
    if default is None:
        if argument:
            raise ValueError(f"{spec!r}: {kind} takes no argument")
        return {}
    number, _, seconds = argument.partition(":")
    values: dict[str, Any] = {"number": _float(spec, number) if number else default}
    if kind == "status":
        values["retry_after"] = _float(spec, seconds) if seconds else None
        if not 400 <= _float(spec, number or "500") <= 599:
            raise ValueError(f"{spec!r}: a status between 400 and 599 is wanted")
    elif seconds:
        raise ValueError(f"{spec!r}: {kind} takes one argument")
    return values


def _selector(spec: str, name: str, value: str) -> float | str:
    if name in ("path", "model"):
        return value
    if name not in ("p", "every", "first", "after"):
        raise ValueError(f"{spec!r}: unknown selector {name!r}; one of p, every, first, after, path, model")
    number = _float(spec, value)
    if name == "p":
        if number > 1:
            raise ValueError(f"{spec!r}: p is a probability")
        return number
    if name == "every" and number < 1:
        raise ValueError(f"{spec!r}: every must be at least 1")
    return int(number)


def _float(spec: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{spec!r}: {value!r} is not a number") from None
    if not 0 <= number < 1e9:
        raise ValueError(f"{spec!r}: {value!r} is out of range")
    return number


class Faults:
    """The specs in force. The first that selects a request strikes it; each counts the requests it has looked at.
    ``chance`` decides for the selector p."""

    def __init__(self, specs: Iterable[str], chance: random.Random) -> None:
        self.rules = [parse(spec) for spec in specs]
        self._seen = [0] * len(self.rules)
        self._chance = chance

    def strike(self, path: str, model: str, inference: bool) -> Fault | None:
        """The fault of this request. Without a ``path`` selector a fault touches inference requests only."""
        struck = None
        for index, rule in enumerate(self.rules):
            if not (path == rule.path if rule.path else inference) or (rule.model and rule.model != model):
                continue
            self._seen[index] += 1
            if self._selects(rule, self._seen[index]) and struck is None:
                struck = rule
        return struck

    def _selects(self, rule: Fault, seen: int) -> bool:
        nth = seen - rule.after
        if nth < 1 or (rule.first is not None and nth > rule.first) or nth % rule.every:
            return False
        return rule.p >= 1.0 or self._chance.random() < rule.p
