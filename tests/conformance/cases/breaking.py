"""Ways to break what the engines' profiles look at: metrics pages, streams, generations nobody waits for. (P)"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.signals import Signals
from conformance.engines import Mutation, Seen
from conformance.engines.mutation import Handler, HeldExchange
from tests.conformance.cases.playing import Broken, answers, at, handled

CHAT = "/v1/chat/completions"
HASTY = {"patience": "0.1"}
"""Waiting for what a broken engine will never show is cut to a tenth."""
_SHORT = {"max_model_len": 800, "itl": 0.004}
"""A generation that goes on without its client is over within two seconds."""
_NUMBER = r"[-+.\w]+$"


def hasty(broken: Broken, **settings: Any) -> Broken:
    extra = {**broken.setup.get("extra", {}), **HASTY}
    return Broken(
        broken.mutate, {**broken.settings, **settings}, {**broken.setup, "extra": extra}, broken.engine, broken.wrap
    )


def page(signals: Signals, change: Callable[[str], str]) -> Broken:
    """The metrics page is another."""
    return hasty(at(signals.path, Mutation(body=lambda body: change(body.decode()).encode())))


def fixed(signals: Signals, names: Sequence[str], value: object) -> Broken:
    """Samples of these names never change."""
    return page(signals, lambda text: _valued(text, names, lambda _: value))


def rewritten(signals: Signals, pattern: str, replacement: str) -> Broken:
    return page(signals, lambda text: re.sub(pattern, replacement, text, flags=re.MULTILINE))


def falling(signals: Signals, names: Sequence[str]) -> Broken:
    """Samples of these names are less each time."""
    read = itertools.count()

    def change(text: str) -> str:
        less = 1e6 - next(read)
        return _valued(text, names, lambda _: less)

    return page(signals, change)


def _valued(text: str, names: Sequence[str], value: Callable[[str], object]) -> str:
    return re.sub(
        rf"^((?:{_either(names)})(?:{{.*}})? )({_NUMBER})", lambda m: f"{m[1]}{value(m[2])}", text, flags=re.MULTILINE
    )


def _either(names: Sequence[str]) -> str:
    return "|".join(map(re.escape, names))


def deaf(path: str = CHAT) -> Broken:
    """The engine goes on when its clients have left. (`Mutation.deaf` would hold up the end of the test as well.)"""

    async def handle(well: Handler, exchange: Any) -> None:
        if exchange.request.path != path.encode():
            await well(exchange)
            return
        held, over = HeldExchange(exchange, Mutation()), trio.Event()

        async def generate() -> None:
            try:
                await well(held)  # type: ignore[arg-type]
            finally:
                over.set()

        trio.lowlevel.spawn_system_task(generate)
        await over.wait()
        await held.release()

    return hasty(handled(handle), **_SHORT)


def keyless(seen: Seen) -> bool:
    return not any(name == b"authorization" for name, _ in seen.headers)


def late(path: str) -> Broken:
    """Every answer but the first never comes."""
    asked = itertools.count()

    async def handle(well: Handler, exchange: Any) -> None:
        if exchange.request.path == path.encode() and next(asked):
            await trio.sleep_forever()
        await well(exchange)

    return hasty(handled(handle))


def at_once(body: bytes, path: str = CHAT) -> Broken:
    """A stream that comes in one piece with its head."""

    async def handle(well: Handler, exchange: Any) -> None:
        if exchange.request.path == path.encode():
            await exchange.respond(200, ((b"content-type", b"text/event-stream"),), body)
        else:
            await well(exchange)

    return handled(handle)


CLOSING = at(CHAT, Mutation(headers=lambda fields: (*fields, (b"connection", b"close"))))
"""Every answer ends its connection."""


def says(text: str) -> Callable[[Any], Any]:
    """A change of a whole chat: its text is another."""

    def change(answer: Any) -> None:
        answer["choices"][0]["message"]["content"] = text

    return change


HEEDED = says(asked.CHOICE)


def without(name: str) -> Callable[[list[bytes]], list[bytes]]:
    """A change of a stream: events that hold these bytes are gone."""
    return lambda events: [event for event in events if name.encode() not in event]


def metrics(profile: str, signals: Signals) -> Mapping[str, Broken]:
    """The shared cases about the metrics page and about clients that leave, for an engine with these signals."""
    counts = [f"{name}_count" for name in (*signals.ttft, *signals.tpot)]
    usage = signals.usage
    table = {
        "metrics.page": at(signals.path, Mutation(headers=lambda _: ((b"content-type", b"application/json"),))),
        "metrics.names": rewritten(signals, _either(signals.running), "running"),
        "metrics.types": rewritten(
            signals, rf"^# TYPE ({'|'.join(map(re.escape, signals.running))}) .*", r"# TYPE \1 info"
        ),
        "metrics.finite": fixed(signals, signals.running, "NaN"),
        "metrics.quick": late(signals.path),
        "metrics.open": at(signals.path, answers(401), when=keyless),
        "metrics.running": fixed(signals, signals.running, 0),
        "metrics.waiting": hasty(fixed(signals, signals.waiting, 0), max_running=2),
        "metrics.kv-usage": fixed(signals, usage, 0.25),
        "metrics.tokens": fixed(signals, signals.generated, 7),
        "metrics.finished": fixed(signals, signals.finished, 7),
        "metrics.prefix-hits": fixed(signals, signals.hits, 7),
        "metrics.counters": falling(signals, signals.generated),
        "metrics.latencies": fixed(signals, counts, 7),
        "abort.stream": deaf(),
        "abort.whole": deaf(),
    }
    needs = {
        "open": signals.open,
        "kv-usage": usage,
        "finished": signals.finished,
        "prefix-hits": signals.hits,
        "latencies": counts,
    }
    return {
        f"{profile}.{name}": broken for name, broken in table.items() if needs.get(name.removeprefix("metrics."), True)
    }
