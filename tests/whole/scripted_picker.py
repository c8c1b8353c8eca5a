"""An endpoint picker whose core does what the test says in headers of the request: a program of its own. (IO)

`python -m tests.whole.scripted_picker JOURNAL PORT [TLS] ADDRESS…`: picks the addresses in their order, or those that
``x-pick`` names. ``x-do: hang`` never decides, ``x-do: raise`` has a bug. ``JOURNAL`` gets a line of JSON for each
request that has left.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import trio

from adapters.openai import OpenAI
from gateway.errors import GatewayError, NoEndpoints
from gateway.listen import open_listeners
from gateway.types import ANONYMOUS, Headers, Identity, InferenceRequest, Operation
from protocols.extproc.certificate import self_signed_context
from protocols.extproc.messages import SERVICE
from protocols.extproc.serve import Deadlines, ExternalProcessor
from protocols.extproc.subset import within
from protocols.grpc.health import Health
from protocols.grpc.server import Server


class Pick:
    def __init__(self, request: InferenceRequest, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self.model = "engine-m" if request.model == "renamed" else request.model
        self.limits: Headers = ()
        self.told: dict[str, Any] = {"id": request.id, "model": request.model, "finished": False, "bytes": 0}
        self._request = request
        self._decoder: Any = None

    def responded(self, status: int, headers: Headers, served: str = "") -> None:
        self.told.update(status=status, served=served)
        if status == 200 and self._request.model:
            self._decoder = OpenAI().decoder(self._request, status, headers)

    def feed(self, data: bytes) -> None:
        self.told["bytes"] += len(data)
        if self._decoder is not None:
            self._decoder.feed(data)

    def finish(self) -> None:
        self.told["finished"] = True
        if self._decoder is not None:
            self._decoder.finish()
            usage = self._decoder.usage
            self.told["usage"] = usage and msgspec.to_builtins(usage)


class Core:
    def __init__(self, journal: Path, addresses: tuple[str, ...]) -> None:
        self.journal = journal
        self.addresses = addresses

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        return ANONYMOUS

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        raise AssertionError

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        self._note({"refused": error.reason})

    @contextlib.asynccontextmanager
    async def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AsyncIterator[Pick]:
        wanted = dict(request.headers)
        if wanted.get(b"x-do") == b"raise":
            raise RuntimeError("as the test wants it")
        try:
            if wanted.get(b"x-do") == b"hang":
                await trio.sleep_forever()
        except trio.Cancelled:
            self._note({"id": request.id, "hung": True})
            raise
        named = tuple(wanted[b"x-pick"].decode().split(",")) if b"x-pick" in wanted else self.addresses
        addresses = within(named, request.only)
        if not addresses:
            raise NoEndpoints("nobody is allowed")
        picked = Pick(request, addresses)
        try:
            yield picked
        finally:
            self._note(picked.told)

    def _note(self, told: dict[str, Any]) -> None:
        with self.journal.open("a") as file:
            file.write(json.dumps(told) + "\n")


class Brief(logging.Formatter):
    """Failures in one line: tracebacks are for programs that fail unasked."""

    def formatException(self, ei: Any) -> str:
        return repr(ei[1])


async def main(journal: str, port: str, *addresses: str) -> None:
    context = self_signed_context() if "TLS" in addresses else None
    addresses = tuple(address for address in addresses if address != "TLS")
    listeners = await open_listeners("127.0.0.1", int(port), context)
    service = ExternalProcessor(Core(Path(journal), addresses), deadlines=Deadlines(pick=1.0))
    health = Health([SERVICE], lambda: True)
    server = Server([service, health], listeners)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        host, bound = listeners[0].address
        print(f"ready ext_proc={host}:{bound}", flush=True)


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger().handlers[0].setFormatter(Brief())
    trio.run(main, *sys.argv[1:])
