"""The `Process` call of ext_proc: a session per stream, the endpoint chosen by the core. (T)

One task a stream, one cancel scope whose deadline moves from phase to phase: in full duplex Envoy waits for a picker
for ever, so the picker bounds itself. Invariant: every stream ends with a decision, a refusal or a status; whatever it
holds is given back when it is left, at once when the client or the proxy has gone. A bug is a 500 of one request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import msgspec
import trio
from grpclib.const import Cardinality, Handler

from gateway.burden import Burden
from gateway.errors import GatewayError
from gateway.request_id import RequestIds
from gateway.types import Headers, Identity, InferenceRequest, Operation
from gateway.wire.grpc import Code, GrpcError
from protocols.extproc import messages, refusal
from protocols.extproc.refusal import Late, Silent
from protocols.extproc.request import Wanted, identified, inference, operation
from protocols.extproc.session import Disorder, Session, Settings, Step, Watch

_log = logging.getLogger("infer_gateway.extproc")
METHOD: Final = f"/{messages.SERVICE}/Process"
_LAST_WORDS_S: Final = 5.0


class Stream(Protocol):
    """What is used of `protocols.grpc.stream.Stream`. ``keeping``: what was received is held until the call ends."""

    keeping: bool

    @property
    def peer_address(self) -> str: ...
    @property
    def subject(self) -> str: ...
    async def recv_message(self) -> Any:
        """The next message, None after the last."""

    async def send_bytes(self, payload: bytes, /) -> None: ...


class Pick(Protocol):
    """Where a request goes, and what is told of its answer (`gateway.pick.Pick`).

    ``limits``: fields that tell the caller what is left of its limits. Left without `finish`, its client has gone.
    """

    @property
    def addresses(self) -> Sequence[str]: ...
    @property
    def model(self) -> str: ...
    @property
    def limits(self) -> Headers: ...
    def responded(self, status: int, headers: Headers, served: str = "", /) -> None: ...
    def feed(self, data: bytes, /) -> None: ...
    def finish(self) -> None: ...


class Scored(Pick, Protocol):
    """A pick that can say how the candidates compared."""

    @property
    def scores(self) -> Mapping[str, float]: ...


class Core(Protocol):
    """What this front end stands on."""

    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None:
        """As `protocols.openai.serve.Core`."""

    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity:
        """As `protocols.openai.serve.Core`."""

    def pick(self, request: InferenceRequest, pool: str | None = None, /) -> AbstractAsyncContextManager[Pick]:
        """Entering waits for admission and chooses; raises GatewayError, and has noted it."""

    def refused(
        self, operation: Operation, error: GatewayError, request_id: str, identity: Identity | None, headers: Headers, /
    ) -> None:
        """Note a request that was answered before it could be served; None: it is not known whose."""


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; infinity is no bound. ``body``: silence while a request arrives; ``pick``: identity, queue and choice;
    ``response``: until a response begins, or while its request still streams; ``silence``: between two pieces of a
    response.
    """

    body: float = 60.0
    pick: float = 60.0
    response: float = 600.0
    silence: float = 300.0


class ExternalProcessor:
    """The service: hand it to a `protocols.grpc.server.Server`. ``pool``: where requests go whatever routes say."""

    def __init__(
        self,
        core: Core,
        *,
        pool: str | None = None,
        settings: Settings | None = None,
        deadlines: Deadlines | None = None,
        burden: Burden | None = None,
    ) -> None:
        self.core = core
        self.burden = burden or Burden()
        self.pool = pool
        self.settings = settings or Settings()
        self.deadlines = deadlines or Deadlines()
        self.ids = RequestIds()

    def __mapping__(self) -> dict[str, Handler]:
        kinds = messages.ProcessingRequest, messages.ProcessingResponse
        return {METHOD: Handler(self.process, Cardinality.STREAM_STREAM, *kinds)}

    async def process(self, stream: Stream) -> None:
        """Serve one stream. Raises GrpcError where nothing but a status can be answered."""
        await _Exchange(self, stream).run()


class _Exchange:
    """One stream while it is served."""

    __slots__ = ("_bodiless", "_id", "_phase", "_scope", "_service", "_session", "_stream", "_unwatched")

    def __init__(self, service: ExternalProcessor, stream: Stream) -> None:
        self._service = service
        self._stream = stream
        self._session = Session(service.settings)
        self._scope = trio.CancelScope()
        self._phase = ""
        self._id = ""
        self._bodiless = self._unwatched = False

    async def run(self) -> None:
        error: GatewayError | None = None
        with self._scope as scope:
            try:
                await self._walk()
            except GatewayError as raised:
                error = raised
            except Disorder as disorder:
                _log.info("a proxy at %s does not keep to ext_proc: %s", self._stream.peer_address, disorder)
                raise GrpcError(Code.FAILED_PRECONDITION, str(disorder)) from None
            except (GrpcError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise
            except Exception:  # noqa: BLE001  the boundary of one request: a bug ends it alone
                self._id = self._id or self._service.ids.next()
                _log.exception("request %s failed unexpectedly", self._id)
                error = GatewayError(f"The endpoint picker failed unexpectedly on request {self._id}.")
        if scope.cancelled_caught:
            error = self._late()
        if error is not None:
            await self._refuse(error)

    async def _walk(self) -> None:
        wanted = await self._wanted()
        if wanted is None:
            return
        service = self._service
        self._id = service.ids.of(wanted.head.named.get("x-request-id"))
        self._bodiless = wanted.bodiless
        self._enter("pick")
        request = await self._request(wanted)
        async with service.core.pick(request, service.pool) as pick:
            self._scope.deadline = math.inf
            with trio.CancelScope() as self._scope:
                await self._pass(request, pick)
            if self._scope.cancelled_caught:
                raise self._late()  # inside: the endpoint is to blame, and is judged by it

    async def _pass(self, request: InferenceRequest, pick: Pick) -> None:
        """Let the request go where it was told to, and look on."""
        settings = self._service.settings
        replies = self._session.routed(
            pick.addresses,
            self._id,
            asked=request.named,
            model=pick.model,
            extra=pick.limits,
            scores=_scores(pick) if settings.scores else None,
        )
        self._enter("response")
        await self._send(replies)
        if settings.response is Watch.SKIP:
            pick.finish()
        else:
            await self._follow(pick)

    async def _wanted(self) -> Wanted | None:
        """The request once it is whole; None for a stream that ends before, or that only lets us look on."""
        self._stream.keeping = True
        while True:
            self._enter("body")
            message = await self._stream.recv_message()
            if message is None or message.observability_mode:
                return None
            step = self._session.receive(message)
            await self._send(step.replies)
            if step.wanted is not None:
                self._stream.keeping = False
                return step.wanted

    async def _request(self, wanted: Wanted) -> InferenceRequest:
        core, stream, headers = self._service.core, self._stream, wanted.head.fields
        identity: Identity | None = None
        try:
            refusal = self._service.burden.refusal(1)
            if refusal is not None:
                raise refusal
            identity = core.known(headers, stream.peer_address, stream.subject)
            if identity is None:
                identity = await core.identify(headers, stream.peer_address, stream.subject)
            return inference(wanted, identified(identity, wanted.head), self._id)
        except GatewayError as error:
            core.refused(operation(wanted.path, b"") or Operation.CHAT, error, self._id, identity, headers)
            raise

    async def _follow(self, pick: Pick) -> None:
        """Tell ``pick`` of the response until it has ended, or the proxy tells no more."""
        stream, session = self._stream, self._session
        while True:
            message = await stream.recv_message()
            if message is None:
                if session.complete:
                    pick.finish()
                return
            step = session.receive(message)
            self._enter("silence" if session.responding else "response")
            self._observe(pick, step)
            if step.ended:
                pick.finish()
            await self._send(step.replies)
            if step.ended:
                return

    def _observe(self, pick: Pick, step: Step) -> None:
        """A bug in what looks on does not cost a client its answer."""
        if self._unwatched:
            return
        try:
            if step.responded is not None:
                pick.responded(step.responded.status, step.responded.headers, step.responded.served)
            elif step.data:
                pick.feed(step.data)
        except Exception:  # noqa: BLE001  the boundary
            self._unwatched = True
            _log.exception("the response to request %s is not understood", self._id)

    async def _send(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            await self._stream.send_bytes(reply.SerializeToString())

    def _enter(self, phase: str) -> None:
        """Within a phase the deadline follows in steps of a sixteenth: moving it costs as much as reading a message."""
        seconds: float = getattr(self._service.deadlines, phase)
        deadline = trio.current_time() + seconds
        if phase != self._phase or deadline - self._scope.deadline >= seconds / 16:
            self._scope.deadline = deadline
        self._phase = phase

    def _late(self) -> Late:
        seconds = getattr(self._service.deadlines, self._phase)
        status, dropped, text = _LATE[self._phase]
        kind = Silent if self._phase in ("response", "silence") else Late
        return kind(text.format(seconds), status, dropped)

    async def _refuse(self, error: GatewayError) -> None:
        """Answer the client in place of an endpoint; a response under way can only be broken off."""
        if self._session.responding:
            raise GrpcError(Code.DEADLINE_EXCEEDED if isinstance(error, Late) else Code.INTERNAL, error.message)
        self._id = self._id or self._service.ids.next()
        verdict = refusal.verdict(error, bodiless=self._bodiless)
        with trio.move_on_after(_LAST_WORDS_S):
            await self._send([refusal.reply(error, verdict, self._id)])


_LATE: Final = {
    "body": (504, "rejected-timeout", "the request's body did not arrive: nothing came for {:g} s"),
    "pick": (503, "rejected-ttl-expired", "no endpoint was chosen within {:g} s"),
    "response": (504, "evicted-timeout", "the endpoint did not begin to answer within {:g} s"),
    "silence": (504, "evicted-timeout", "the endpoint's answer stopped for {:g} s"),
}


def _scores(pick: Pick) -> Mapping[str, float]:
    return getattr(pick, "scores", {})
