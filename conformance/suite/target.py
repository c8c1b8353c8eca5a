"""What a case speaks through: requests to the server under test, every one of them recorded. (T)

Invariant: a case has its own `Target`; keys go out with requests and into nothing that is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol
from urllib.parse import quote

import msgspec
import trio

from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import EXTRAS
from conformance.suite.wire import Address, Connection, Headers, Ration, WireError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MODELS = "/v1/models"
Send = Callable[[Connection, str, str, Headers, bytes], Awaitable[None]]
"""Puts a request on a connection: method, path, header fields, body. The answer may come before it is through."""

_VERSIONED = re.compile(r"/v\d+\w*(/openai)?$")


class Setup(msgspec.Struct, frozen=True):
    """What the command line named, completed by detection. ``behind``: engines behind a gateway under test.

    ``version`` as the server told it, "" if it did not. ``models`` as it listed them. ``extra`` holds what single
    cases read, see `case.EXTRAS`.
    """

    address: Address
    engine: str
    model: str = ""
    models: tuple[str, ...] = ()
    version: str = ""
    key: str = ""
    lora: str = ""
    lora_path: str = ""
    embedding_model: str = ""
    behind: tuple[Address, ...] = ()
    grpc: Address | None = None
    ext_proc: Address | None = None
    timeout: float = 20.0
    extra: Mapping[str, str] = {}


class Heard(Protocol):
    """What came back, as reports show it: of HTTP an `Answer`, of gRPC a call. ``ended`` is 0 while it goes on."""

    @property
    def status(self) -> int | None: ...
    @property
    def fields(self) -> Headers: ...
    @property
    def body(self) -> bytes | bytearray: ...
    @property
    def ended(self) -> float: ...


@dataclass
class Trace:
    """One exchange while it happens. ``headers`` hold the key; reports hide it. ``command`` repeats it where curl
    does not.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    sent: float
    answer: Heard | None = None
    error: str = ""
    ended: float = 0.0
    command: str = ""


@dataclass
class Target:
    """The server under test, for one case. ``setup`` is the run's, ``heard`` tells whether it ever sent a byte,
    ``ration`` bounds how many it may send.
    """

    setup: Setup
    traces: list[Trace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heard: bool = False
    ration: Ration = field(default_factory=Ration)

    # --- requests -----------------------------------------------------------------------------------------------------

    def path(self, path: str) -> str:
        """Where the server has ``path``: a base URL that names a version, as SDKs take it, stands for ``/v1``."""
        root = self.setup.address.root
        if _VERSIONED.search(root):
            return root + path[3:] if path.startswith("/v1/") else _VERSIONED.sub("", root) + path
        return root + path

    def headers(self, key: str | None = None) -> Headers:
        """What every request carries. ``key`` replaces the run's; "" sends none."""
        key = self.setup.key if key is None else key
        fields = [("user-agent", "infer-gateway-conformance"), ("accept-encoding", "identity")]
        if self.setup.engine == "anthropic":
            return [*fields, ("anthropic-version", "2023-06-01"), *([("x-api-key", key)] if key else [])]
        return [*fields, *([("authorization", f"Bearer {key}")] if key else [])]

    @asynccontextmanager
    async def connect(self, where: Address | None = None) -> AsyncIterator[Connection]:
        """A connection of its own; leaving closes it at once."""
        async with Connection(where or self.setup.address, self.ration) as connection:
            yield connection

    @asynccontextmanager
    async def open(
        self,
        path: str,
        document: Any = None,
        *,
        method: str = "",
        body: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
        key: str | None = None,
        on: Connection | None = None,
        where: Address | None = None,
        send: Send = Connection.send,
    ) -> AsyncIterator[Answer]:
        """Send a request, give its answer as it arrives; leaving closes the connection unless it is ``on`` another's.

        ``document`` is sent as JSON, ``body`` as it is; the method is POST with either, else GET. ``headers`` are
        added, and replace those of the same name; one that is "" is left out. ``send`` puts the request on the wire.
        Raises WireError if there is no answer.
        """
        if on is None:
            async with (
                self.connect(where) as connection,
                self.open(
                    path,
                    document,
                    method=method,
                    body=body,
                    headers=headers,
                    key=key,
                    on=connection,
                    where=where,
                    send=send,
                ) as answer,
            ):
                yield answer
            return
        trace = self._trace(path, document, method, body, headers, key, where)
        try:
            answer = trace.answer = await self._exchange(trace, on, send)
            yield answer
        except WireError as error:
            trace.error = error.message
            raise
        finally:
            self.heard = self.heard or on.answered
            trace.ended = trio.current_time()

    def _trace(
        self,
        path: str,
        document: Any,
        method: str,
        body: bytes | None,
        headers: Sequence[tuple[str, str]],
        key: str | None,
        where: Address | None,
    ) -> Trace:
        own = self.path(path) if where is None else where.root + path
        if body is None:
            body = b"" if document is None else json.dumps(document, ensure_ascii=False).encode()
        fields = dict(self.headers(key if where is None else ""))
        if body or method == "POST":
            fields |= {"content-type": "application/json", "content-length": str(len(body))}
        fields |= {name.lower(): value for name, value in headers}
        fields = {name: value for name, value in fields.items() if value}
        url = (where or self.setup.address).origin + own
        trace = Trace(method or ("POST" if body else "GET"), url, list(fields.items()), body, trio.current_time())
        self.traces.append(trace)
        return trace

    async def _exchange(self, trace: Trace, connection: Connection, send: Send) -> Answer:
        path = trace.url[len(connection.where.origin) :]
        await send(connection, trace.method, path, trace.headers, trace.body)
        status, fields = await connection.head()
        return Answer(connection, status, fields, trace.sent)

    async def ask(self, path: str, document: Any = None, **how: Any) -> Answer:
        """A request and its whole answer, see `open`."""
        async with self.open(path, document, **how) as answer:
            await answer.read()
            return answer

    def forget(self, at: int) -> None:
        """Drop an exchange that no report needs, and what its answer counts for: of a page that is polled, all but the
        last.
        """
        answer = self.traces.pop(at).answer
        self.ration.take(-len(answer.body) if answer else 0)

    # --- usual requests -----------------------------------------------------------------------------------------------

    def chat(self, text: str = "Say hello.", /, **members: Any) -> dict[str, Any]:
        """A small chat request; ``members`` are added, None removes one. For models that know a limit by another name
        only, ``--set limit=max_completion_tokens`` gives it.
        """
        body = {
            "model": self.setup.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
            **members,
        }
        limit = self.setup.extra.get("limit", "max_tokens")
        body[limit] = body.pop("max_tokens") if limit not in members else body[limit]
        return {name: value for name, value in body.items() if value is not None}

    async def chatted(self, text: str = "Say hello.", /, **members: Any) -> dict[str, Any]:
        """The 200 of a small chat, decoded."""
        answer = await self.ask(CHAT, self.chat(text, **members))
        return check.kind(answer.expect(200).json, dict, "the answer")

    async def streamed(self, text: str = "Say hello.", /, **members: Any) -> Stream:
        """The whole stream of a small chat."""
        answer = await self.ask(CHAT, self.chat(text, stream=True, **members))
        return answer.expect(200).stream()

    # --- what a case says besides pass and fail ----------------------------------------------------------------------

    def skip(self, reason: str) -> NoReturn:
        raise check.Skip(reason)

    def note(self, text: str) -> None:
        """Something learned that the report should tell."""
        self.notes.append(text)

    def may_refuse(self, answer: Answer, *params: str) -> Answer:
        """``answer``, unless the server refuses these parameters by name, or the operation as such: then the case is
        skipped, for saying no is no lie. 404, 405 and 501 say that there is no such operation.
        """
        if answer.status in (404, 405, 501):
            self.skip(f"not offered here ({answer.status})")
        if answer.status in (400, 422) and params:
            said = answer.text
            if any(re.search(rf"\b{re.escape(param)}\b", said) for param in params):
                self.skip(f"{params[0]} is refused by name: {check.shown(said)[:160]}")
        return answer

    def lacks(self, needs: Sequence[str]) -> str:
        """The options for what of ``needs`` was not given; "" if all is there. Names are those of `Setup`'s fields, or
        of `EXTRAS`.
        """
        missing = [name for name in needs if not getattr(self.setup, name, None) and not self.setup.extra.get(name)]
        return ", ".join(_option(name) for name in missing)


def _option(name: str) -> str:
    if name in EXTRAS:
        return f"--set {name}=…"
    return "--api-key" if name == "key" else f"--{name.replace('_', '-')}"


def quoted(model: str) -> str:
    """A model's name as one path segment."""
    return quote(model, safe="")
