"""Requests that are held open while a case looks at the engine from beside. (T)

Invariant: leaving `held` closes every connection at once. A full queue's refusal is counted; any other answer than a
200 fails the case.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from conformance.suite.target import CHAT, MODELS, Target

LONGEST = 2000
"""Tokens that a held request asks for at most; an answer of so many takes even tiny models a second."""
_LEAST = 64
_END = 1000


class Held:
    """``asked`` requests for ``tokens`` each: ``over`` are answered in full, ``refused`` found the queue full."""

    def __init__(self, asked: int, tokens: int) -> None:
        self.asked = asked
        self.tokens = tokens
        self.over = 0
        self.refused = 0

    @property
    def taken(self) -> int:
        return self.asked - self.refused


@asynccontextmanager
async def held(target: Target, count: int, text: str = "Count.", /, **members: Any) -> AsyncIterator[Held]:
    """``count`` long chats at once, each prompt a little different; streams unless ``members`` say otherwise.

    What they answer is read as it comes and thrown away.
    """
    body: dict[str, Any] = {
        "stream": True,
        "max_tokens": await room(target),
        "ignore_eos": True,
        "temperature": 0,
        **members,
    }
    requests = Held(count, body["max_tokens"])
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(_hold, target, requests, target.chat(f"{number}: {text}", **body))
        yield requests
        nursery.cancel_scope.cancel()


async def _hold(target: Target, requests: Held, body: dict[str, Any]) -> None:
    async with target.open(CHAT, body) as answer:
        if answer.status in (429, 503):
            requests.refused += 1
            return
        if answer.status != 200:
            await answer.read()
            answer.expect(200)
        end = b""
        while data := await answer.chunk():
            answer.body.clear()
            end = (end + data)[-_END:]
        if b'"error"' in end:  # SGLang and TGI refuse inside a stream
            requests.refused += 1
        else:
            requests.over += 1


async def room(target: Target) -> int:
    """How many tokens a held request may ask for."""
    context = await context_length(target)
    return LONGEST if context is None else max(_LEAST, min(LONGEST, context // 2))


async def context_length(target: Target) -> int | None:
    """Tokens of prompt and answer together, as a listing or TGI's ``/info`` tell it; None if none does."""
    for path in (MODELS, "/info"):
        answer = await target.ask(path)
        try:
            document = json.loads(bytes(answer.body)) if answer.status == 200 else {}
        except ValueError:
            continue
        cards = document.get("data") if isinstance(document, dict) else None
        found = [_length(card) for card in cards or [document] if isinstance(card, dict)]
        if any(found):
            return max(filter(None, found))
    return None


def _length(card: dict[str, Any]) -> int | None:
    meta = card.get("meta")
    own = meta.get("n_ctx") if isinstance(meta, dict) else None
    lengths = (card.get("max_model_len"), card.get("context_length"), card.get("max_total_tokens"), own)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)
