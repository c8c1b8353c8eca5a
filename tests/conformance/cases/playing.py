"""Cases played against simulated engines in this process, well ones and ones broken on purpose. (IO)

A profile's tests are three lines each: `well` for an engine that should pass, `Broken` in a table case id → what is
wrong, `noticed` for an entry of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from conformance.engines import Mutation, Seen, Served, Settings, build
from conformance.engines.engine import Engine
from conformance.engines.mutation import Handler, Mutate, mutated
from conformance.suite.case import Profile
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from conformance.suite.wire import Address
from gateway.listen import open_listeners
from protocols.http.listener import Limits, serve

KEY = "sk-played"
MODEL = "played/model"
SETTINGS = Settings(models=(MODEL,), api_key=KEY, itl=0.002)

Change = Callable[[Any], Any]
"""A decoded JSON document as it should be → as it is broken."""


@dataclass(frozen=True)
class Broken:
    """What is wrong with an engine. ``mutate`` as in `conformance.engines.mutation`; ``settings`` replace the stage's,
    ``setup`` the members of `Setup`; ``engine`` is another simulator; ``wrap`` stands around the engine's handler.
    """

    mutate: Mutate | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    engine: str = ""
    wrap: Callable[[Handler], Handler] | None = None


WELL = Broken()


@dataclass(frozen=True)
class Stage:
    """Where a profile is played: the well simulator, how it is set up, and what the command line would have named.

    ``root`` is the path of its base URL; ``deviations`` as a `Runner` has them.
    """

    profile: Profile
    engine: str
    settings: Settings = SETTINGS
    setup: Mapping[str, Any] = field(default_factory=dict)
    root: str = ""
    deviations: Mapping[str, str] = field(default_factory=dict)

    def play(self, broken: Broken = WELL, only: Collection[str] | None = None, *, parallel: int = 8) -> list[Result]:
        """Results of the cases called ``only``, or of all."""
        return trio.run(self._play, broken, only, parallel)

    async def _play(self, broken: Broken, only: Collection[str] | None, parallel: int) -> list[Result]:
        cases = [case for case in self.profile if only is None or case.id in only]
        settings = msgspec.structs.replace(self.settings, **broken.settings)
        async with served(broken.engine or self.engine, settings, broken) as (server, _):
            setup = self.setup_of(server, settings, broken)
            return await Runner(setup, self.deviations).run(cases, parallel=parallel)

    def setup_of(self, server: Served, settings: Settings, broken: Broken = WELL) -> Setup:
        models = settings.models or server.engine.models
        members = {
            "engine": self.engine,
            "model": models[0],
            "models": models,
            "key": settings.api_key,
            "lora": next(iter(settings.loras), ""),
            "version": server.engine.version,
        }
        members |= {**self.setup, **broken.setup}
        return Setup(Address(server.host, server.port, root=self.root), **members)


@asynccontextmanager
async def served(kind: str, settings: Settings, broken: Broken = WELL) -> AsyncIterator[tuple[Served, Engine]]:
    """A simulated engine on a port of its own, for as long as the block lasts."""
    engine = build(kind, settings)
    handle: Handler = engine.handle
    if broken.mutate is not None:
        handle = mutated(handle, broken.mutate)
    if broken.wrap is not None:
        handle = broken.wrap(handle)
    listeners = await open_listeners("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await nursery.start(
            serve, handle, listeners, Limits(idle_timeout=engine.keep_alive_s, max_body=engine.max_body)
        )
        yield Served(engine, "127.0.0.1", port), engine
        nursery.cancel_scope.cancel()


# -- what tests assert ----------------------------------------------------------------------------------------------


def told(results: Iterable[Result]) -> str:
    """Results as an assertion shows them."""
    return "\n".join(
        f"{r.case} [{r.level}] {r.kind}: {r.message}"
        + (f"\n    expected {r.expected}\n    got      {r.got}" if r.expected is not None or r.got is not None else "")
        for r in results
    )


def well(results: Collection[Result], skipped: Mapping[str, str] | None = None, noted: Collection[str] = ()) -> None:
    """Every case passes but those that are ``skipped`` (case id → words of the reason) or only ``noted``."""
    skipped = skipped or {}
    wrong = [
        r
        for r in results
        if r.kind is Kind.FAILED
        or (r.kind is Kind.NOTED) != (r.case in noted)
        or (r.kind is Kind.SKIPPED) != (r.case in skipped)
        or (r.kind is Kind.SKIPPED and skipped[r.case] not in r.message)
    ]
    assert not wrong, told(wrong)


def noticed(stage: Stage, case: str, broken: Broken) -> Result:
    """The case fails on the engine that is broken so."""
    (result,) = stage.play(broken, {case})
    assert result.kind in (Kind.FAILED, Kind.NOTED), f"{case} does not notice: {result.kind} {result.message}"
    assert "could not be understood" not in result.message, told([result])
    return result


def covers(profile: Profile, table: Collection[str]) -> None:
    """The table names every case, and nothing else."""
    ids = {case.id for case in profile}
    assert set(table) == ids, f"missing: {sorted(ids - set(table))}, unknown: {sorted(set(table) - ids)}"


# -- ways to break an engine ----------------------------------------------------------------------------------------


def at(path: str, mutation: Mutation, method: str = "", when: Callable[[Seen], object] = lambda seen: True) -> Broken:
    """Only answers to requests for this path (``*`` at its end takes whatever follows)."""

    def mutate(seen: Seen) -> Mutation | None:
        there = seen.path.startswith(path[:-1]) if path.endswith("*") else seen.path == path
        return mutation if there and method in ("", seen.method) and when(seen) else None

    return Broken(mutate)


def document(change: Change) -> Mutation:
    """The JSON of a whole answer is another. ``change`` may work in place and return None."""
    return Mutation(body=lambda body: _changed(body, change))


def request(change: Change) -> Mutation:
    """The engine sees another request than the one that came."""
    return Mutation(request=lambda body: _changed(body, change))


def chunks(change: Change) -> Mutation:
    """Every event of a stream that is JSON is another."""

    def events(found: list[bytes]) -> list[bytes]:
        return [_event(raw, change) for raw in found]

    return Mutation(events=events)


def answers(status: int, body: bytes = b"{}", kind: bytes = b"application/json") -> Mutation:
    """This answer, whatever the engine says."""
    return Mutation(status=status, body=lambda _: body, headers=lambda _: ((b"content-type", kind),))


def handled(handle: Callable[[Handler, Any], Awaitable[None]]) -> Broken:
    """A handler of one's own: ``handle(well, exchange)``."""
    return Broken(wrap=lambda well: lambda exchange: handle(well, exchange))


def _changed(body: bytes, change: Change) -> bytes:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    made = change(value)
    return msgspec.json.encode(value if made is None else made)


def _event(raw: bytes, change: Change) -> bytes:
    head, mark, data = raw.partition(b"data: ")
    return head + mark + _changed(data, change) + b"\n\n" if mark and data.startswith(b"{") else raw
