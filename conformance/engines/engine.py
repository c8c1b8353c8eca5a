"""One simulated engine: finds the route, applies the fault, runs the generation, writes the answer. (T)

Invariant: whatever ends a request (its answer, its client leaving, a fault), its slot and its blocks are free when the
handler has returned.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

import msgspec
import trio

from conformance.engines import ask as asks
from conformance.engines import inside, text
from conformance.engines.ask import Ask
from conformance.engines.batch import Batch, QueueFull
from conformance.engines.batch import Sequence as Generation
from conformance.engines.blocks import BlockPool, chain
from conformance.engines.call import JSON, Call, Headers, Refusal, Route
from conformance.engines.chunked import Chunked
from conformance.engines.exposition import sizes
from conformance.engines.faults import BREAKS, Faults
from conformance.engines.forms import Choice, Form
from conformance.engines.model import Buckets, Model, Ticket
from conformance.engines.rates import Rates, elapse
from conformance.engines.settings import Settings, release
from protocols.http.exchange import HttpExchange


class Engine:
    """Base of all dialects. `handle` answers one exchange; `run` makes the tokens and must be running meanwhile."""

    kind: ClassVar[str] = ""
    newest: ClassVar[str] = ""
    model_name: ClassVar[str] = "simulated-model"
    keep_alive_s: ClassVar[float] = 75.0
    max_body: ClassVar[int] = 64 * 1024 * 1024
    buckets: ClassVar[Buckets] = Buckets()
    comment: ClassVar[bytes] = b": keep-alive\n\n"
    comment_every_s: ClassVar[float] = 0.0
    """Silence in a stream that has begun after which a comment is sent; 0 is never."""
    fills_whole: ClassVar[bool] = False
    """Before a whole answer blank lines are sent as comments are in a stream."""
    own_headers: ClassVar[Headers] = ()
    json_type: ClassVar[bytes] = JSON
    closes_on_error: ClassVar[bool] = False
    closes_after_stream: ClassVar[bool] = False
    """The connection ends with a stream, though its head said nothing of that."""
    rate_limits: ClassVar[Mapping[str, int]] = {}
    """What a minute allows, by name; the settings' limits replace those on requests and those on tokens."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.version = settings.version or self.newest
        self.release = release(self.version)
        self.models = settings.models or (self.model_name,)
        self.loras: dict[str, str] = {name: f"/adapters/{name}" for name in settings.loras}
        pool = BlockPool(settings.kv_blocks)
        make = Chunked if settings.chunk_tokens else Batch
        batch = make(pool, settings.block_size, settings.max_running, settings.max_queued, settings.pace)
        self.model = Model(batch, self.buckets, sizes(settings.model_len))
        self.faults = Faults(settings.fail, random.Random(settings.seed))
        self.comment_s = settings.keep_alive_comment or self.comment_every_s
        limits = {name: _limit(settings, name) or limit for name, limit in self.rate_limits.items()}
        self.rates = Rates(limits, settings.rate_limit_period)
        self.requests = 0
        self.last: dict[str, Any] | None = None
        self._ids = random.Random(f"{settings.seed}/{settings.instance}")
        self._epoch = time.time()
        self._routes = {**self.routes(), "/sim/state": {"GET": self._state}, "/sim/fail": {"POST": self._set_faults}}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        self._epoch = time.time() - trio.current_time()
        task_status.started()
        await self.model.run()

    # -- what dialects bring ------------------------------------------------------------------------------------

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        """path → method → handler. A path that ends in ``/`` + ``*`` takes whatever follows."""
        raise NotImplementedError

    def inference(self, path: str) -> bool:
        """Whether a fault without a path selector touches this path."""
        return "/sim/" not in path and path not in ("/health", "/metrics")

    def authorize(self, call: Call) -> None:
        """Raises Refusal for a key that is missing or wrong."""

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        """An error in the dialect's shape; ``kind`` and ``code`` have defaults by status."""
        raise NotImplementedError

    def missing(self, call: Call, allowed: tuple[str, ...]) -> Refusal:
        """404, or 405 where other methods are served."""
        if allowed:
            allow = ((b"allow", ", ".join(allowed).encode()),)
            return Refusal(405, b'{"detail":"Method Not Allowed"}', headers=allow)
        return Refusal(404, b'{"detail":"Not Found"}')

    def busy(self, call: Call, ask: Ask) -> Refusal:
        """The queue is full."""
        raise NotImplementedError

    def failing(self, status: int, retry_after: float | None) -> Refusal:
        """The answer of an engine that was told to fail."""
        refusal = self.error(status, "simulated failure")
        if retry_after is not None:
            refusal.headers += ((b"retry-after", b"%g" % retry_after),)
        return refusal

    def limited(self, name: str, wait: float) -> Refusal:
        """The limit called ``name`` is used up for ``wait`` more seconds."""
        return self.error(429, f"Rate limit reached for {name}. Please try again in {elapse(wait)}.")

    def stream_error(self, message: str) -> bytes:
        """The last events of a stream that fails, as the engine sends them."""
        raise NotImplementedError

    def answer_headers(self, call: Call, form: Form | None) -> Headers:
        return self.own_headers

    # -- the walk of a request ----------------------------------------------------------------------------------

    async def handle(self, exchange: HttpExchange) -> None:
        """Answer one exchange. A `protocols.http` handler."""
        call = Call(exchange, unquote(exchange.request.path.decode("latin-1")))
        try:
            route = self._find(call)
            if not call.path.startswith("/sim/"):
                self.authorize(call)
                if await inside.strike(self, call):
                    return
            await route(call)
        except Refusal as refusal:
            await self._refuse(call, refusal)

    def dressed(self, call: Call, refusal: Refusal) -> Refusal:
        """A refusal in the shape of the route, where a dialect has routes of several."""
        return refusal

    async def _refuse(self, call: Call, refusal: Refusal) -> None:
        refusal = self.dressed(call, refusal)
        own = {name for name, _ in refusal.headers}
        headers = tuple(field for field in self.answer_headers(call, None) if field[0] not in own)
        kind = (b"content-type", refusal.content_type or self.json_type)
        await call.exchange.start(refusal.status, (kind, *headers, *refusal.headers))
        if self.closes_on_error:
            await call.exchange.end(refusal.body)
        else:
            await call.exchange.finish(refusal.body)

    def _find(self, call: Call) -> Route:
        methods = self._routes.get(call.path)
        if methods is None:
            parts = call.path.split("/")
            starred = ("/".join(parts[:end]) + "/*" for end in range(len(parts) - 1, 1, -1))
            methods = next((self._routes[path] for path in starred if path in self._routes), {})
        route = methods.get(call.exchange.request.method.decode("latin-1"))
        if route is None:
            raise self.missing(call, tuple(methods))
        return route

    def decode(self, call: Call) -> dict[str, Any]:
        """The body, which must be a JSON object. Raises Refusal as the dialect does."""
        try:
            fields = msgspec.json.decode(call.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.bad_json(call, error) from None
        if not isinstance(fields, dict):
            raise self.not_object(call, fields)
        call.fields = fields
        return fields

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.error(400, f"the body is not valid JSON: {error}")

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.error(400, "the body must be a JSON object")

    async def reply(self, call: Call, body: Any, status: int = 200, content_type: bytes = b"") -> None:
        """A whole answer; anything but bytes becomes JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = ((b"content-type", content_type or self.json_type), *self.answer_headers(call, None))
        await call.exchange.respond(status, headers, data)

    # -- generation ---------------------------------------------------------------------------------------------

    def new_id(self, digits: int = 16) -> str:
        return f"{self._ids.getrandbits(4 * digits):0{digits}x}"

    def wall(self) -> float:
        """Unix time, moving with Trio's clock."""
        return self._epoch + trio.current_time()

    def choices(self, ask: Ask, id: str, call_id: str) -> list[Choice]:
        """A plan and a sequence for every prompt and every n."""
        settings = self.settings
        made = []
        width = settings.block_size * text.TOKEN_BYTES
        for at, prompt in enumerate(ask.prompts):
            tokens = text.count(prompt)
            hashes = chain(prompt, width, (ask.adapter, ask.salt) if ask.adapter or ask.salt else None)
            for n in range(ask.n):
                plan = asks.plan(ask, prompt, n, max(0, settings.model_len - tokens), settings.seed)
                generation = Generation(hashes, tokens, plan.length, streaming=ask.stream, adapter=ask.adapter)
                made.append(Choice(at * ask.n + n, plan, generation, prompt, id, call_id))
        return made

    async def generate(self, call: Call, ask: Ask, form: Form) -> None:
        """Queue the sequences and write the answer as they are made."""
        self.charge(form.prompt_tokens, form.completion_tokens)
        try:
            ticket = self.model.submit([choice.generation for choice in form.choices])
        except QueueFull:
            raise self.busy(call, ask) from None
        with ticket:
            if ask.stream:
                await self._stream(call, ticket, form)
            else:
                await self._wait_whole(call, ticket, form)
                await self._whole(call, form)
        for choice in form.choices:
            self.model.statistics.reasons[choice.plan.finish] += 1

    def charge(self, prompt: int, completion: int) -> None:
        """Take a request's tokens from what the minute allows. Raises Refusal."""
        costs = {"requests": 1, "tokens": prompt + completion, "input-tokens": prompt, "output-tokens": completion}
        now = trio.current_time()
        exceeded = self.rates.take(costs, now)
        if exceeded is not None:
            raise self.limited(exceeded, self.rates.reset(now))

    async def _stream(self, call: Call, ticket: Ticket, form: Form) -> None:
        exchange = call.exchange
        headers = ((b"content-type", form.stream_type), *self.answer_headers(call, form))
        left = call.fault.tokens if call.fault is not None and call.fault.kind in BREAKS else float("inf")
        await exchange.start(200, headers)
        wrote = form.headers_first or left <= 0
        if wrote:
            await exchange.send(form.begin())
        while left > 0:
            if self.comment_s and wrote:
                await self._wait_commenting(exchange, ticket)
            else:
                await ticket.wait()
            out, count = form.advance(left)
            over, left = ticket.over, left - count
            if not wrote:
                out, wrote = form.begin() + out, True
            elif over and left > 0:
                await self._end_stream(exchange, out + form.end())
                return
            if out:
                await exchange.send(out)
            if over and left > 0:
                await self._end_stream(exchange, form.end())
                return
        await self._break(call, form)

    async def _end_stream(self, exchange: HttpExchange, last: bytes) -> None:
        await (exchange.end if self.closes_after_stream else exchange.finish)(last)

    async def _wait_commenting(self, exchange: HttpExchange, ticket: Ticket) -> None:
        """Wait, with a comment in the stream whenever it has been silent for long."""
        while True:
            with trio.move_on_after(self.comment_s) as scope:
                await ticket.wait()
            if not scope.cancelled_caught:
                return
            await exchange.send(self.comment)

    async def _break(self, call: Call, form: Form) -> None:
        assert call.fault is not None
        if call.fault.kind == "cut":
            call.exchange.abort()
        elif call.fault.kind == "stall":
            await trio.sleep_forever()
        else:
            message = "simulated failure"
            await self._end_stream(call.exchange, form.failure(message) or self.stream_error(message))

    async def _wait_whole(self, call: Call, ticket: Ticket, form: Form) -> None:
        """Wait for all tokens, sending head and blank lines meanwhile where the dialect does."""
        if not self.comment_s or not self.fills_whole:
            await ticket.wait_over()
            return
        exchange = call.exchange
        while not ticket.over:
            with trio.move_on_after(self.comment_s):
                await ticket.wait_over()
                return
            if not exchange.started:
                await exchange.start(200, ((b"content-type", self.json_type), *self.answer_headers(call, form)))
            await exchange.send(b"\n")

    async def _whole(self, call: Call, form: Form) -> None:
        exchange, fault = call.exchange, call.fault
        body, begun = form.whole(), exchange.started
        breaks = fault is not None and fault.kind in BREAKS
        if breaks and fault is not None and fault.kind == "error-event":
            refusal = self.error(500, "simulated failure")
            if not begun:
                raise refusal
            body, breaks = refusal.body, False
        if not begun:
            length = ((b"content-length", b"%d" % len(body)),) if breaks else ()
            await exchange.start(200, ((b"content-type", self.json_type), *self.answer_headers(call, form), *length))
        if not breaks:
            await exchange.finish(body)
            return
        await exchange.send(body[: len(body) // 2])
        await self._break(call, form)

    # -- the simulator's own endpoints --------------------------------------------------------------------------

    async def _state(self, call: Call) -> None:
        await self.reply(call, inside.state(self))

    async def _set_faults(self, call: Call) -> None:
        """``{"fail": [SPEC, …]}`` replaces the specs in force and begins to count anew."""
        try:
            specs = msgspec.json.decode(call.body, type=dict[str, list[str]]).get("fail", [])
            self.faults = Faults(specs, random.Random(self.settings.seed))
        except ValueError as error:  # msgspec's errors are ValueErrors too
            raise Refusal(400, msgspec.json.encode({"error": str(error)})) from None
        await self.reply(call, {"fail": specs})


def _limit(settings: Settings, name: str) -> int:
    return settings.rate_limit_requests if name == "requests" else settings.rate_limit_tokens
