"""The seams: what the core is written against, and what protocols, adapters and sources implement. (P)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from gateway.errors import GatewayError, UpstreamError
from gateway.types import (
    Demand,
    Endpoint,
    Headers,
    InferenceRequest,
    Load,
    ModelCard,
    Ration,
    Taken,
    UpstreamRequest,
    Usage,
)

if TYPE_CHECKING:
    from gateway.meter import Histogram, Record
    from gateway.schedule.ask import Ask
    from gateway.schedule.speed import Speed
    from gateway.trace import Trace
    from gateway.wire.exposition import Layout


class Exchange(Protocol):
    """One request and the place its reply goes. HTTP/1.1, ASGI, gRPC and tests implement it.

    `start` and `send` may hold bytes until the next call or `finish`, never longer than that. `send` waits while the
    client does not read (back-pressure); cancelled, it leaves the connection fit only for closing. Errors of the
    client's connection raise trio.BrokenResourceError.
    """

    request: InferenceRequest
    started: bool

    async def start(self, status: int, headers: Headers, /) -> None: ...
    async def send(self, chunk: bytes, /) -> None: ...
    async def finish(self, chunk: bytes = b"", /) -> None: ...
    async def fail(self, error: GatewayError, /) -> None:
        """Answer with the protocol's error; once started, its in-stream error, and then close."""

    def keep_alive(self, headers: Headers = (), /) -> None:
        """Let whoever waits on a silent stream see life (SSE: a comment); nothing where the protocol has no such thing.

        Called between two `send`s, from another task, at most every few seconds; starts the reply, with ``headers``,
        if need be.
        """


class Decoder(Protocol):
    """One upstream answer on its way to the client: pure bytes in, bytes out.

    For streams `feed` returns whole events only; an event still incomplete is kept until its end arrives.
    ``error`` is set when the engine reports a failure inside its answer: bytes already returned stay valid, nothing
    after the error is returned. ``progress`` is 0 before any event, 1 after events without a token (role, comment),
    2 from the first token on. ``tokens`` counts what was streamed, for answers that end without usage. ``ended``: the
    answer is whole, whether or not the body goes on.
    """

    usage: Usage | None
    error: GatewayError | None
    progress: int
    tokens: int
    ended: bool
    content_type: bytes

    def feed(self, data: bytes, /) -> bytes: ...
    def finish(self) -> bytes:
        """At the end of the upstream body: what is still due to the client. Sets ``error`` if it is not whole."""


class Adapter(Protocol):
    """One engine kind's dialect. Pure and stateless: one instance serves every endpoint of its kind."""

    name: str

    def encode(self, request: InferenceRequest, endpoint: Endpoint, model: str, /) -> UpstreamRequest:
        """The request in the engine's dialect, naming ``model``; the client's bytes where nothing has to change.

        Raises Unsupported for what the engine would silently drop, NotFound for an operation it does not offer.
        """

    def decoder(self, request: InferenceRequest, status: int, headers: Headers, /) -> Decoder:
        """For a 2xx answer."""

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        """For any other answer: the engine's own message, normalised, and whether another endpoint may be tried."""

    def ration(self, headers: Headers, /) -> Ration | None:
        """What an answer, of whatever status, says its provider will still take; None where it says nothing."""

    def models_path(self) -> bytes:
        """GET this to learn what an endpoint serves."""

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        """Raises ValueError for a body that is not a model listing."""

    def metrics_path(self) -> bytes:
        """GET this to learn an endpoint's load; b"" where there is nothing to ask."""

    def parse_load(self, exposition: bytes, now: float, layout: Layout | None = None, /) -> Load:
        """The wanted numbers of a metrics page. Raises ValueError for one that has none of them.

        A ``layout`` that the caller keeps for the pages of one endpoint makes the next one quick to read.
        """


class UpstreamResponse(Protocol):
    """A response's head, and its body as it arrives."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def complete(self) -> bool:
        """True once the whole body has been received: the last `receive` says so without another read."""

    async def receive(self) -> bytes:
        """The body bytes of one read, b"" at the end. Cancellation loses nothing. Raises UpstreamError when cut."""


class Sending(Protocol):
    """One request under way: entered, it has been sent and the response's head received.

    Left, the connection is kept for reuse if the body is complete and closed at once otherwise.
    """

    async def __aenter__(self) -> UpstreamResponse: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def abort(self) -> None:
        """Close the connection under whoever waits on it; they get UpstreamError."""


class Transport(Protocol):
    """The only outbound I/O of the data path."""

    def send(self, endpoint: Endpoint, request: UpstreamRequest, /) -> Sending: ...


class Store(Protocol):
    """Accounts of limits: in this process, or shared by replicas. All demands of a request are met or none.

    Whatever is taken is given back by `settle`, once, in the same store: for a rate the difference between what was
    reserved and what was used (above zero: less was used), for a place the place.
    """

    def take_nowait(self, demands: Sequence[Demand], now: float, /) -> Taken | None:
        """None where somebody else has to be asked: then `take`."""

    async def take(self, demands: Sequence[Demand], /) -> Taken:
        """Waits for an answer for a bounded time; cancelled, it holds nothing."""

    def settle(self, demands: Sequence[Demand], taken: Taken, given_back: Sequence[float], now: float, /) -> None:
        """Never waits: what is shared hears of it in the background. ``given_back`` may be negative: a debt.

        ``taken`` is what granted the demands: what has leaked since then cannot be given back.
        """


class Observer(Protocol):
    """Who is told what becomes of requests, while it happens. Nothing here waits or fails.

    ``pool`` and ``endpoint`` are names as operators see them. ``tier`` is the caller's, "" without one.
    """

    def finished(self, record: Record, /) -> None:
        """A request is over, whatever came of it."""

    def attempted(self, pool: str, endpoint: str, outcome: str, /) -> None:
        """An endpoint was tried: "ok", or the reason of the failure."""

    def failed_over(self, pool: str, reason: str, /) -> None:
        """An attempt failed for ``reason`` and another endpoint, one of ``pool``, is tried."""

    def hedged(self, pool: str, outcome: str, tokens: float, /) -> None:
        """A second attempt beside one that is slow was due; it cost so many tokens (`gateway.hedge` has outcomes)."""

    def limited(self, limit: str, /) -> None:
        """A limit of that name refused a request."""

    def turned_away(self, pool: str, tier: str, why: str, /) -> None:
        """Admission refused a request (`Overloaded.why`)."""

    def rewrote(self, by: str, model: str, target: str, /) -> None:
        """The object ``by`` put the model ``target`` in place of ``model`` ("": only the client knows it)."""

    def decided(self, pool: str, seconds: float, tokens: float, hits: float, /) -> None:
        """An endpoint was chosen in so many seconds: of a prompt of ``tokens`` it should hold ``hits``."""

    def gaps(self, pool: str, /) -> Histogram:
        """Where the seconds between two pieces of a pool's streams are counted."""


class Tracer(Protocol):
    """Who follows requests through the gateway and beyond it."""

    def begin(self, request: InferenceRequest, now: float, /) -> Trace:
        """A request has arrived. Whether it is followed stands in `Trace.sampled`."""

    def end(self, trace: Trace, record: Record, /) -> None:
        """It is over; called for those that are followed only."""


class Candidate(Protocol):
    """One endpoint during a decision: what it is, what it said last, and what the gateway itself has under way there.

    ``load`` is None where nothing (or nothing recent) is known. ``inflight`` counts our requests there, ``pending``
    those of them that still wait for their first token, ``backlog`` their uncached prompt tokens. ``until``: when the
    endpoint should have computed all prompts we sent it, on Trio's clock. ``foreign`` counts requests that others sent
    there as far as its load tells and replicas say, ``foreign_pending`` those of them that wait. ``unheard``: seconds
    of computing that replicas are likely to send there while nobody has heard of it yet.
    """

    @property
    def id(self) -> str: ...
    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def cards(self) -> tuple[ModelCard, ...]: ...
    @property
    def load(self) -> Load | None: ...
    @property
    def inflight(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def backlog(self) -> float: ...
    @property
    def until(self) -> float: ...
    @property
    def foreign(self) -> float: ...
    @property
    def foreign_pending(self) -> float: ...
    @property
    def unheard(self) -> float: ...
    @property
    def speed(self) -> Speed: ...


class Filter(Protocol):
    """Leaves out candidates a request must not go to; the order stays. No I/O, no clock, no await."""

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]: ...


class Scorer(Protocol):
    """One float per candidate, same order, in [0, 1], higher is better. No I/O, no clock, no await.

    A plugin that learns has some of these methods beside (see `gateway.schedule.profile`): ``placed(ask, candidate)``
    when a request goes there, ``heard(placed, candidate, now)`` when another replica's has gone there, ``left(ask,
    candidate, usage)`` when it has left (``usage`` None: it failed before its first token), ``loaded(candidate)`` when
    new numbers came, ``forget(id)`` when an engine restarted or is gone.
    ``explain(ask, candidate)`` gives what an operator should see of a score, as JSON-ready values by name.
    """

    def __call__(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[float]: ...


class Picker(Protocol):
    """Best first; the tail is the failover order. Lazy where that saves work: the tail is seldom asked for."""

    def __call__(self, candidates: Sequence[Candidate], scores: Sequence[float], /) -> Iterable[Candidate]: ...
