"""Envoy as a picker meets it: it says what is to be said, and puts together what the replies make of a request. (T)

Invariant: a reply that Envoy would not take is a Failure, with the rule that it breaks.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from conformance.cases import behind
from conformance.cases.epp import messages
from conformance.cases.epp.messages import DESTINATION, DUPLEX, LB
from conformance.suite import check, h2client
from conformance.suite.check import Failure
from conformance.suite.h2client import Link
from conformance.suite.rpc import Call
from conformance.suite.target import CHAT, Target

SILENCE_S = 8.0
"""Within which a picker has answered, or it hangs: in full duplex Envoy would wait for ever."""
LARGEST = 65_536
"""Bytes of body in one reply, beyond which proxies fail."""


@dataclass
class Outcome:
    """What becomes of one direction. ``set``: fields as they stand in the end; ``order``: the kinds of replies."""

    order: list[str] = field(default_factory=list)
    set: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    metadata: str = ""
    body: bytes = b""
    pieces: list[int] = field(default_factory=list)
    immediate: Any = None
    over: bool = False

    @property
    def destination(self) -> str:
        return self.set.get(DESTINATION, "")

    @property
    def first(self) -> str:
        """The endpoint to go to, of those named."""
        return self.destination.partition(",")[0].strip()


class Proxy:
    """One request's stream to the picker."""

    def __init__(self, call: Call, modes: tuple[int, int] = (DUPLEX, DUPLEX)) -> None:
        self.call = call
        self.modes = modes
        self.request = Outcome()
        self.response = Outcome()

    async def say(self, *parts: Any) -> None:
        for message in parts:
            await self.call.send(message)

    async def end(self) -> None:
        """Half-close, as Envoy does when the request is done with."""
        await self.call.send_raw(b"", end=True)

    async def reply(self, within: float = SILENCE_S) -> Any:
        """The next reply, taken into account. None: the stream has ended. Raises Failure where nothing comes."""
        with trio.move_on_after(within):
            reply = await self.call.next()
            if reply is not None:
                self._take(reply)
            return reply
        raise Failure("the picker says nothing", f"a reply within {within:g} s", self.request.order)

    async def silent(self, seconds: float = 0.3) -> bool:
        """Whether the picker waits for more."""
        with trio.move_on_after(seconds):
            reply = await self.call.next()
            if reply is not None:
                self._take(reply)
            return False
        return True

    async def until(self, side: str = "request") -> Outcome:
        """What has become of a direction when it is over, or the picker has answered for the endpoint."""
        outcome = self.request if side == "request" else self.response
        while not outcome.over and self.request.immediate is None:
            if await self.reply() is None:
                break
        outcome.immediate = self.request.immediate
        return outcome

    async def routed(self) -> Outcome:
        """The request's outcome, which has to name an endpoint."""
        outcome = await self.until()
        if outcome.immediate is not None:
            got = f"{outcome.immediate.status.code}: {outcome.immediate.body!r}"
            raise Failure("the request is refused", "an endpoint", got)
        if not outcome.over:
            raise Failure("the stream ended before the request was let through", outcome.order, self.call.fields)
        check.true(outcome.destination, f"no {DESTINATION} is set", "ip:port", outcome.set)
        return outcome

    def _take(self, reply: Any) -> None:
        kind = reply.WhichOneof("response")
        check.true(kind, "a reply that holds no response")
        side, _, part = kind.partition("_")
        if kind == "immediate_response":
            self.request.order.append(kind)
            self.request.immediate = reply.immediate_response
            return
        outcome = self.request if side == "request" else self.response
        check.true(
            not outcome.over or part == "trailers", f"{kind} after the end of its direction", "nothing", outcome.order
        )
        outcome.order.append(kind)
        if reply.HasField("dynamic_metadata") and LB in reply.dynamic_metadata.fields:
            said = reply.dynamic_metadata.fields[LB].struct_value.fields
            if DESTINATION in said:
                outcome.metadata = said[DESTINATION].string_value
        if part == "headers":
            self._mutated(outcome, reply, kind)
            outcome.over = outcome.over or self._bodiless(side)
        elif part == "body":
            self._mutated(outcome, reply, kind)
            self._body(outcome, getattr(reply, kind).response, self.modes[side == "response"], kind)
        else:
            outcome.over = True

    def _bodiless(self, side: str) -> bool:
        """Whether Envoy has said that no body follows, or shows none."""
        return self.modes[side == "response"] == messages.NONE or side in self.ended

    ended: frozenset[str] = frozenset()

    def _mutated(self, outcome: Outcome, reply: Any, kind: str) -> None:
        mutation = getattr(reply, kind).response.header_mutation
        outcome.removed += mutation.remove_headers
        for option in mutation.set_headers:
            name = option.header.key
            check.equal(name, name.lower(), "the case of a field's name")
            check.true(not (option.header.value and option.header.raw_value), f"{name} has a value and a raw_value")
            value = option.header.raw_value or option.header.value.encode()
            outcome.set[name] = value.decode("utf-8", "replace")

    def _body(self, outcome: Outcome, common: Any, mode: int, kind: str) -> None:
        mutation = common.body_mutation
        if mode != DUPLEX:
            outcome.pieces.append(len(mutation.body))
            outcome.body += mutation.body
            return
        check.true(
            mutation.HasField("streamed_response"), f"{kind} in full duplex without streamed_response",
            "streamed_response", str(common),
        )  # fmt: skip
        check.contains(outcome.order, kind.replace("body", "headers"), f"what comes before {kind}")
        piece = mutation.streamed_response
        outcome.body += piece.body
        outcome.pieces.append(len(piece.body))
        outcome.over = piece.end_of_stream


@asynccontextmanager
async def linked(target: Target) -> AsyncIterator[Link]:
    assert target.setup.ext_proc is not None  # what cases need is asked for by name
    async with h2client.connect(target, target.setup.ext_proc) as link:
        yield link


@asynccontextmanager
async def proxied(
    target: Target, modes: tuple[int, int] = (DUPLEX, DUPLEX), on: Link | None = None
) -> AsyncIterator[Proxy]:
    """A stream for one request, on a connection of its own if on no other."""
    if on is None:
        async with linked(target) as link, proxied(target, modes, link) as proxy:
            yield proxy
        return
    yield Proxy(await on.open(messages.PROCESS, messages.ProcessingResponse, key=""), modes)


# -- what is usual ----------------------------------------------------------------------------------------------------


def fields(
    target: Target, size: int | None = None, *, path: str = "", more: messages.Fields = ()
) -> list[tuple[str, str]]:
    """A request's header fields; with ``size`` those of a POST."""
    found = [(":method", "GET" if size is None else "POST"), (":path", path or CHAT), (":authority", "conformance")]
    found += [] if size is None else [("content-type", "application/json"), ("content-length", str(size))]
    if target.setup.key:
        found.append(("authorization", f"Bearer {target.setup.key}"))
    return [*found, *more]


def document(target: Target, text: str = "Say hello.", **members: Any) -> bytes:
    return json.dumps(target.chat(text, **members)).encode()


def posted(target: Target, data: bytes, *, hint: Sequence[str] | str | None = None, **how: Any) -> list[Any]:
    """The messages of a request with this body, as Envoy splits one off the wire: the end comes by itself."""
    more = how.pop("more", ())
    head = messages.headers("request", fields(target, len(data), more=more, path=how.pop("path", "")), **how)
    parts = [head, messages.body("request", data), messages.body("request", b"", True)]
    return parts if hint is None else [messages.hinted(part, hint) for part in parts]


async def picked(target: Target, data: bytes | None = None, **how: Any) -> Outcome:
    """What becomes of a usual request. Its stream ends without a response, as when the client leaves."""
    async with proxied(target) as proxy:
        await proxy.say(*posted(target, document(target) if data is None else data, **how))
        return await proxy.until()


async def endpoints(target: Target) -> list[str]:
    """Those that are known: named on the command line, or picked."""
    found = {f"{where.host}:{where.port}" for where in target.setup.behind}
    for _ in range(4):
        async with proxied(target) as proxy:
            await proxy.say(*posted(target, document(target)))
            found |= {each.strip() for each in (await proxy.routed()).destination.split(",")}
    return sorted(found)


async def recovered(target: Target, endpoint: str, within: float = 12.0) -> None:
    """Until requests find this endpoint again: the picker may have set it aside after failures."""

    async def there() -> bool:
        return (await picked(target, hint=[endpoint])).immediate is None

    await behind.until(there, within)


def refused(outcome: Outcome, *statuses: int) -> Any:
    """The ImmediateResponse, of one of these statuses."""
    if outcome.immediate is None:
        raise Failure(
            "the request is not refused", " or ".join(map(str, statuses)), outcome.destination or outcome.order
        )
    check.among(outcome.immediate.status.code, statuses, "the status of the ImmediateResponse")
    check.equal(outcome.order[-1], "immediate_response", "the last reply")
    return outcome.immediate
