"""A live engine asked everything once, what it answered written down. (IO)

Invariant: what is written has been through the scrubber; of an exchange that got no whole answer nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path

import trio

from conformance.record.requests import CHAT, Request
from conformance.record.secrets import Scrubber
from conformance.suite.answer import Answer
from conformance.suite.check import Failure
from conformance.suite.target import Setup, Target

Tell = Callable[[str], None]
_WARM_S = 2.0
"""How long requests get to begin before the load they make is looked at."""


class Recorder:
    """``setup`` says where the engine is; ``out`` is the folder, which exists."""

    def __init__(self, setup: Setup, out: Path, scrubber: Scrubber, tell: Tell) -> None:
        self._setup = setup
        self._out = out
        self._scrubber = scrubber
        self._tell = tell
        self.failed = 0
        self.kept = 0

    async def about(self, started: str) -> None:
        """``about.json``: which engine, which release, when."""
        told = {"engine": self._setup.engine, "version": self._setup.version, "recorded": started}
        self._write("about.json", json.dumps(told, indent=2).encode() + b"\n")

    async def exchange(self, request: Request) -> None:
        """One of them into ``NAME.http``, with ``NAME.request.json`` where a body was sent."""
        answer = await self._asked(request)
        if answer is None:
            return
        self._write(f"{request.name}.http", written(request, answer, self._scrubber))
        if request.body is not None:
            self._write(f"{request.name}.request.json", self._scrubber.body(request.body))
        self.kept += 1
        self._tell(f"{answer.status} {request.method} {request.path}  {request.name}")

    async def page(self, path: str, name: str) -> None:
        """The metrics page, if there is one."""
        answer = await self._asked(Request(name, path))
        if answer is not None and answer.status == 200:
            self._write(f"{name}.prom", self._scrubber.body(bytes(answer.body)))
            self._tell(f"200 GET {path}  {name}")

    async def busy_page(self, path: str, body: bytes, streams: int) -> None:
        """The metrics page while ``streams`` requests are under way; they are given up afterwards."""
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            stack.callback(nursery.cancel_scope.cancel)
            begun = trio.Semaphore(0)
            for _ in range(streams):
                nursery.start_soon(self._keep_busy, body, begun)
            with trio.move_on_after(_WARM_S):
                for _ in range(streams):
                    await begun.acquire()
            await self.page(path, "metrics")

    async def _keep_busy(self, body: bytes, begun: trio.Semaphore) -> None:
        try:
            async with Target(self._setup).open(CHAT, body=body) as answer:
                await answer.chunk()
                begun.release()
                await answer.read()
        except Failure as failure:
            self._tell(f"a request that was to keep the engine busy: {failure.message}")

    async def _asked(self, request: Request) -> Answer | None:
        """The whole answer; None, and told, where none came."""
        headers = [("content-type", request.content_type)] if request.body is not None else []
        try:
            with trio.fail_after(self._setup.timeout):
                return await Target(self._setup).ask(
                    request.path, body=request.body, headers=[*headers, *request.headers], method=request.method
                )
        except trio.TooSlowError:
            reason = f"no whole answer within {self._setup.timeout:g} s"
        except Failure as failure:
            reason = failure.message
        self.failed += 1
        self._tell(f"not recorded: {request.name}: {self._scrubber.text(reason)}")
        return None

    def _write(self, name: str, data: bytes) -> None:
        (self._out / name).write_bytes(data)


def written(request: Request, answer: Answer, scrubber: Scrubber) -> bytes:
    """An exchange in the recordings' form: a line that names the request, status line, fields, body without framing."""
    sent = "".join(f"-H {name}: {value}" for name, value in request.headers)
    body = scrubber.body(bytes(answer.body))
    lines = [f"HTTP/1.1 {answer.status} {phrase(answer.status)}"]
    lines += [f"{name}: {value}" for name, value in scrubber.headers(answer.fields, len(body))]
    head = f"# {request.method} {request.path} {sent}\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return head.encode("latin-1", "replace") + body


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


async def record(recorder: Recorder, requests: Iterable[Request]) -> None:
    """One after the other, so that what is told of usage and caches can be understood."""
    for request in requests:
        await recorder.exchange(request)
