"""A client that leaves frees what its request held: without that a gateway's cancelling is in vain. (T)

Invariant: an engine that just finishes early does not pass; its tokens are counted, too.
"""

from __future__ import annotations

from typing import Any

from conformance.cases.engines.shared.held import held, room
from conformance.cases.engines.shared.metrics import seen, settled
from conformance.cases.engines.shared.signals import Signals, quiet
from conformance.cases.engines.shared.templates import Templates
from conformance.suite import check
from conformance.suite.target import Target

ABORTS = Templates("abort")
_WHOLE = 1000
"""Tokens of an answer that is not streamed: what an engine that does not notice works off, it must not do for long."""


@ABORTS.case("stream", "A client that leaves its stream ends the generation at once", alone=True)
async def stream(target: Target, signals: Signals) -> None:
    await _abandoned(target, signals, signals.stream_noticed, 2, stream=True)


@ABORTS.case("whole", "A client that leaves before a whole answer ends the generation soon", alone=True)
async def whole(target: Target, signals: Signals) -> None:
    tokens = min(_WHOLE, await room(target))
    await _abandoned(target, signals, signals.whole_noticed, 1, stream=False, max_tokens=tokens)


async def _abandoned(target: Target, signals: Signals, within: float, count: int, **members: Any) -> None:
    before = await quiet(target, signals)
    async with held(target, count, **members) as requests:
        await seen(target, signals, requests, lambda page: page.total(signals.running), "running requests")
    after = await settled(target, signals, within)
    made = (after.total(signals.generated) or 0) - (before.total(signals.generated) or 0)
    most = count * requests.tokens
    check.true(made < most, "requests whose clients had gone were answered to their end", f"less than {most}", made)
    await target.chatted()
