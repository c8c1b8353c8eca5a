"""An engine played in memory: exchanges without sockets, and recordings to hold answers against."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio
import trio.testing

from conformance.engines import Settings, build
from conformance.engines.engine import Engine
from gateway.wire import h1
from tests.recordings import folder

JSON = ((b"content-type", b"application/json"),)


class Played:
    """An exchange that keeps what was written, and when."""

    def __init__(self, method: str, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        fields = [(name.lower(), value) for name, value in headers]
        self.request = h1.Request(method.encode(), path.encode(), fields, body, True, False, dict(fields))
        self.peer = "test"
        self.started = self.finished = self.aborted = self.closing = self.whole = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.writes: list[tuple[float, bytes]] = []

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started, self.status = True, status
        self.headers = {name.decode(): value.decode() for name, value in headers}

    async def send(self, chunk: bytes) -> None:
        self.writes.append((trio.current_time(), chunk))

    async def finish(self, chunk: bytes = b"") -> None:
        await self.send(chunk)
        self.finished = self.whole = True

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        await self.start(status, headers)
        await self.finish(body)

    async def end(self, chunk: bytes) -> None:
        self.closing = True
        await self.finish(chunk)

    def abort(self) -> None:
        self.finished = self.aborted = True

    @property
    def body(self) -> bytes:
        return b"".join(chunk for _, chunk in self.writes)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        return events(self.body)


def events(body: bytes) -> list[Any]:
    """The data of every event; JSON where it is JSON."""
    found = []
    for block in body.decode().split("\n\n"):
        data = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if data:
            text = "\n".join(data)
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


async def ask(
    engine: Engine, path: str, body: Any = None, *, method: str = "", headers: Sequence[tuple[bytes, bytes]] = JSON
) -> Played:
    """One request, answered. ``body`` is JSON unless it is bytes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    played = Played(method or ("GET" if body is None else "POST"), path, data, headers)
    await engine.handle(played)  # type: ignore[arg-type]
    return played


def play(kind: str, settings: Settings, script: Callable[[Engine], Awaitable[None]]) -> None:
    """Run a script against an engine in virtual time."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            engine = build(kind, settings)
            await nursery.start(engine.run)
            await script(engine)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- recordings -------------------------------------------------------------------------------------------------


class Recording:
    """One request to a real engine and its answer."""

    def __init__(self, path: Path) -> None:
        head, _, self.body = path.read_bytes().partition(b"\r\n\r\n")
        if not _:
            head, _, self.body = path.read_bytes().partition(b"\n\n")
        self.name = path.stem
        first, status, *fields = [line.strip() for line in head.decode().splitlines() if line.strip()]
        words = first.lstrip("# ").split()
        self.method, self.path = words[0], words[1]
        self.status = int(status.split()[1])
        parts = (field.partition(":") for field in fields)
        self.headers = {name.lower(): value.strip() for name, _, value in parts}
        sent = path.with_name(path.name.replace(".http", ".request.json"))
        self.sent = sent.read_bytes() if sent.exists() else None
        self.extra = [(b"x-request-id", b"req-abc-123")] if "X-Request-Id" in first else []


def recordings(engine: str) -> list[str]:
    """Names of those that can be sent again: the body is there, or there was none."""
    found = (Recording(path) for path in folder(engine).glob("*.http"))
    return sorted(each.name for each in found if each.sent is not None or each.method == "GET")


def load(engine: str, name: str) -> Recording:
    return Recording(folder(engine) / f"{name}.http")


_EXACT = {
    "object",
    "finish_reason",
    "role",
    "type",
    "owned_by",
    "status",
    "stop_reason",
    "matched_stop",
    "code",
    "param",
}


def shape(value: Any, key: str = "") -> Any:
    """A value with what differs from run to run replaced by its type."""
    if key == "bytes":
        return "bytes"
    if isinstance(value, dict):
        return {name: shape(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if value is None or isinstance(value, bool) or key in _EXACT:
        return value
    return type(value).__name__


def shapes(found: Sequence[Any]) -> list[Any]:
    """Shapes of a stream's events, runs of equal ones folded: how many tokens shared an event is chance."""
    folded: list[Any] = []
    for each in found:
        made = shape(each)
        if not folded or folded[-1] != made:
            folded.append(made)
    return folded


def ordered(value: Any) -> str:
    """For comparing the order of members too."""
    return re.sub(r"\s+", "", json.dumps(value))
