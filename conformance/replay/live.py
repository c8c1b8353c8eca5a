"""A replay in real time: the requests of a trace over HTTP, timed where they arrive. (IO)

Invariant: times count from when a request was due, however late it was sent; every request ends, by the end of the
time allowed at the latest; nothing that was started outlives the run.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import trio

from conformance.load.answers import QuickStreamCheck
from conformance.load.client import Address, Broken, Connection, resolve, tls_context
from conformance.load.histogram import Histogram
from conformance.load.session import Refused, first_model, reachable
from conformance.load.workload import Target, message
from conformance.replay.jobs import row
from conformance.replay.outcome import Fate, Outcome
from conformance.replay.processes import NotStarted, Program
from conformance.replay.scenario import Scenario
from conformance.replay.stage import MODEL, computed, scaled, staged
from conformance.replay.traces import Request, Trace

_BUFFER_BYTES = 128 * 1024
_LEAD_S = 0.1


class Live(msgspec.Struct, frozen=True):
    """How a trace is played. A run ends ``seconds`` after its first request; what is open then has failed."""

    trace: Trace
    scale: int = 4
    seconds: float = 600.0
    model: str | None = None
    api_key: str | None = None


class _Door:
    """Where requests of one gateway go in, and the connections to it that are idle."""

    def __init__(self, target: Target, address: Address) -> None:
        self.target = target
        self.idle: list[Connection] = []
        self.address = address

    def connection(self, buffer: memoryview) -> Connection:
        return self.idle.pop() if self.idle else Connection(self.address, buffer)

    def close(self) -> None:
        for connection in self.idle:
            connection.close()


class _Probe:
    """One answer on its way: its reads become a `Fate` and gaps between tokens, at the trace's own scale."""

    def __init__(self, due: float, scale: int, fate: Fate, gaps: Histogram) -> None:
        self.check = QuickStreamCheck()
        self._due, self._scale, self._fate, self._gaps = due, scale, fate, gaps
        self._first = self._last = 0.0

    def received(self, data: bytes) -> None:
        if not self.check.feed(data) or not self.check.begun:
            return
        now = trio.current_time()
        if self._first:
            self._gaps.record((now - self._last) / self._scale)
        else:
            self._first, self._fate.ttft = now, now - self._due
        self._last = now

    def finish(self, status: int) -> None:
        """The answer is whole; not so good that it counts as one unless it is right."""
        check, fate = self.check, self._fate
        fate.failed = status != 200 or check.finish() is not None or not self._first
        fate.cached = (check.cached_tokens or 0) * self._scale
        if (check.output_tokens or 0) > 1:
            fate.itl = (self._last - self._first) / ((check.output_tokens or 0) - 1) / self._scale


class _Player:
    """One run: the requests at their times, to gateways drawn by chance."""

    def __init__(self, live: Live, scenario: Scenario, doors: Sequence[_Door], model: str) -> None:
        self.live, self.scenario, self.doors, self.model = live, scenario, doors, model
        self.fates = [Fate() for _ in live.trace.requests]
        for fate in self.fates:
            fate.failed = True  # until its answer is whole
        self.gaps = Histogram()
        self.ended = 0.0
        self._sent = scaled(live.trace, live.scale)
        self._rng = random.Random(f"{scenario.seed}/arrivals")
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def play(self, engines: Sequence[Program]) -> None:
        start = trio.current_time() + _LEAD_S
        try:
            with trio.move_on_at(start + self.live.seconds):
                async with trio.open_nursery() as faults:
                    for index, at in self.scenario.hang.items():
                        faults.start_soon(_pause, engines[index], start + at)
                    async with trio.open_nursery() as nursery:
                        await self._send(nursery, start)
                    faults.cancel_scope.cancel()
        finally:
            for door in self.doors:
                door.close()
        self.ended = trio.current_time() - start

    async def _send(self, nursery: trio.Nursery, start: float) -> None:
        for request in self._sent.requests:
            due = start + request.at / self.scenario.speed
            await trio.sleep_until(due)
            nursery.start_soon(self._request, request, due, self._rng.choice(self.doors))

    async def _request(self, request: Request, due: float, door: _Door) -> None:
        probe = _Probe(due, self.live.scale, self.fates[request.index], self.gaps)
        connection = door.connection(self._buffer)
        with suppress(Broken):
            probe.finish(await connection.exchange(self._message(request, door.target), probe.received))
            door.idle.append(connection)

    def _message(self, request: Request, target: Target) -> bytes:
        body = {
            "model": self.model,
            "prompt": self._sent.text(request),
            "max_tokens": request.output,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return message(target, "POST", "/completions", msgspec.json.encode(body), self.live.api_key)


async def _pause(engine: Program, at: float) -> None:
    await trio.sleep_until(at)
    engine.pause()


async def _door(target: Target) -> _Door:
    context = tls_context() if target.tls else None
    return _Door(target, await reachable(await resolve(target.host, target.port, context)))


async def on_stage(live: Live, scenario: Scenario, scheduler: bytes) -> Outcome:
    """By gateways of this configuration before the scenario's engines. Raises NotStarted, Broken, Refused."""
    async with staged(live.trace, scenario, live.scale, scheduler) as stage:
        player = _Player(live, scenario, [await _door(target) for target in stage.gateways], MODEL)
        await player.play(stage.engines)
        counts = [await computed(engine) for engine in stage.engines]
    return Outcome(player.fates, player.gaps, [count for count in counts if count is not None], player.ended)


async def against(live: Live, scenario: Scenario, target: Target) -> Outcome:
    """By whatever serves there: of it nothing is known but its answers. Raises Broken, Refused."""
    door = await _door(target)
    model = live.model or await first_model(target, door.address, live.api_key)
    player = _Player(live, scenario, [door], model)
    await player.play(())
    return Outcome(player.fates, player.gaps, (), player.ended)


def rows(
    live: Live, scenarios: Sequence[Scenario], policies: Mapping[str, bytes], target: Target | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A row for each scenario and policy, one after the other; and why there are no more of them, if not all were
    played: something did not start or answer, or a signal came.

    With a ``target`` the policy is whatever stands there, and ``policies`` are not used.
    """
    found: list[dict[str, Any]] = []
    return found, trio.run(_play, live, scenarios, policies, target, found)


async def _play(
    live: Live,
    scenarios: Sequence[Scenario],
    policies: Mapping[str, bytes],
    target: Target | None,
    found: list[dict[str, Any]],
) -> str | None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_on_signal, scope)
            gc.freeze()
            try:
                for scenario in scenarios:
                    for name, scheduler in {target.authority: b""}.items() if target else policies.items():
                        _say(live, scenario, name)
                        outcome = await (
                            against(live, scenario, target) if target else on_stage(live, scenario, scheduler)
                        )
                        found.append(_row(name, live, scenario, outcome, target))
            except (Broken, NotStarted, Refused) as error:
                return str(error)
            finally:
                nursery.cancel_scope.cancel()
    return "stopped before the end" if scope.cancelled_caught else None


def _row(name: str, live: Live, scenario: Scenario, outcome: Outcome, target: Target | None) -> dict[str, Any]:
    url = f"{'https' if target.tls else 'http'}://{target.authority}{target.prefix}" if target else None
    return {**row(name, live.trace, scenario, outcome), "live": live.scale, "url": url}


async def _stop_on_signal(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def _say(live: Live, scenario: Scenario, name: str) -> None:
    """What is being played, for who watches."""
    if sys.stderr.isatty():
        span = live.trace.requests[-1].at / scenario.speed
        sys.stderr.write(f"{name} at {scenario.speed:g}×: {len(live.trace.requests)} requests over {span:.0f} s\n")
