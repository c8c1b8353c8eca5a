"""The engines behind a gateway under test: what they got, how busy they are, and how they are made to fail. (T)

Any engine tells its load; only simulated ones tell what they received and fail on request. Invariant: a fault that was
set is taken back, however the case ends, and the gateway is given time to find its engines well again.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from conformance.suite import check
from conformance.suite.target import CHAT, MODELS, Target
from conformance.suite.wire import Address, WireError

_GAUGES = (
    "vllm:num_requests_running", "vllm:num_requests_waiting", "sglang:num_running_reqs", "sglang:num_queue_reqs",
    "tgi_batch_current_size", "tgi_queue_size", "llamacpp:requests_processing", "llamacpp:requests_deferred",
)  # fmt: skip
_SAMPLE = re.compile(rf"^(?:{'|'.join(_GAUGES)})(?:\{{[^\n]*\}})? ([0-9.eE+]+)", re.MULTILINE)
_POLL_S = 0.05
_RECOVERY_S = 15.0


async def serving(target: Target) -> list[Address]:
    """Those of ``--behind`` that list the model under test; all of them if none does, for it may be renamed."""
    found = []
    for where in target.setup.behind:
        answer = await target.ask(MODELS, where=where)
        if answer.status == 200 and json.dumps(target.setup.model) in answer.text:
            found.append(where)
    return found or list(target.setup.behind)


async def state(target: Target, where: Address) -> dict[str, Any]:
    """A simulated engine's own account. Skips the case for any other engine."""
    answer = await target.ask("/sim/state", where=where)
    if answer.status != 200:
        target.skip(f"{where.origin} is no simulated engine")
    said: dict[str, Any] = answer.json
    return said


async def simulators(target: Target) -> list[Address]:
    """The engines that serve the model; skips the case unless all of them are simulated."""
    found = await serving(target)
    for where in found:
        await state(target, where)
    return found


async def received(target: Target, marker: str) -> dict[str, Any]:
    """The request with ``marker`` in its body as an engine got it: method, path, headers, body."""
    for where in await simulators(target):
        last = (await state(target, where))["last"]
        if last and marker in last["body"]:
            found: dict[str, Any] = last
            return found
    raise check.Skip("no engine behind has seen the request: --behind names others than the gateway uses")


async def requests(target: Target, engines: Sequence[Address]) -> list[int]:
    """How many inference requests each simulated engine has counted."""
    return [int((await state(target, where))["requests"]) for where in engines]


async def busy(target: Target, engines: Sequence[Address]) -> float:
    """Requests running and waiting at these engines together. Skips the case where one does not tell."""
    total = 0.0
    for where in engines:
        answer = await target.ask("/metrics", where=where)
        samples = _SAMPLE.findall(answer.text) if answer.status == 200 else []
        if samples:
            total += sum(map(float, samples))
        else:
            said = await state(target, where)
            total += said["running"] + said["waiting"]
    return total


async def until(holds: Callable[[], Awaitable[bool]], within: float) -> float | None:
    """Seconds until something came to hold; None if it did not in time."""
    began = trio.current_time()
    while not await holds():
        if trio.current_time() - began > within:
            return None
        await trio.sleep(_POLL_S)
    return trio.current_time() - began


@asynccontextmanager
async def failing(target: Target, engines: Sequence[Address], *specs: str) -> AsyncIterator[None]:
    """These simulated engines fail so while the block runs."""
    try:
        for where in engines:
            await _set(target, where, specs)
        yield
    finally:
        with trio.move_on_after(_RECOVERY_S) as scope:
            scope.shield = True
            for where in engines:
                await _set(target, where, ())
            await _recovered(target)


async def _set(target: Target, where: Address, specs: Sequence[str]) -> None:
    answer = await target.ask("/sim/fail", {"fail": list(specs)}, where=where)
    if answer.status != 200:
        target.skip(f"{where.origin} is no simulated engine")


async def _recovered(target: Target) -> None:
    """Until the gateway serves again: it may have set engines aside."""
    aside = Target(target.setup)  # its exchanges are no part of the case

    async def well() -> bool:
        try:
            return (await aside.ask(CHAT, aside.chat(max_tokens=1))).status == 200
        except WireError:
            return False

    await until(well, _RECOVERY_S)
