"""One call: what its handler receives and sends, under its deadline. (T)

A handler gets a `Stream` with the surface of grpclib's, so that service bases generated for grpclib plug in unchanged.
One task a call, one cancel scope: the client's reset, its leaving and the deadline cancel the handler at once.
Receiving gives window back to the client; sending waits only while more than `HIGH_WATER` of this call is unsent.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from multidict import MultiDict

from gateway.types import Headers
from gateway.wire import h2
from gateway.wire.grpc import Code, GrpcError, encode_binary, encode_text, framed
from protocols.grpc import metadata as md
from protocols.grpc.incoming import Incoming
from protocols.grpc.outgoing import Outgoing
from protocols.grpc.request import Request

if TYPE_CHECKING:
    from protocols.grpc.connection import Connection

_log = logging.getLogger("infer_gateway.grpc")

HIGH_WATER: Final = 65536
_TURN: Final = 64
"""Messages sent, or taken, without letting others run."""
_SMALL: Final = 4096
"""Bytes of metadata that are not worth an account."""


_FINE = GrpcError(Code.OK)
_LATE = GrpcError(Code.DEADLINE_EXCEEDED, "the deadline has passed")


class Method(msgspec.Struct, frozen=True):
    """One row of a service's `__mapping__()`."""

    func: Callable[[Stream], Awaitable[None]]
    client_streaming: bool
    server_streaming: bool
    request_type: Any
    max_message: int = sys.maxsize


class Deadline:
    """grpclib's view of a deadline."""

    def __init__(self, at: float) -> None:
        self._at = at

    def time_remaining(self) -> float:
        """Seconds, never less than 0."""
        return max(0.0, self._at - trio.current_time())


class Stream:
    """``headers``: the regular fields of the request. ``deadline_at``: on Trio's clock, inf for none. ``keeping``:
    whether messages that were taken are held until the call ends, as that of a call with one message is.
    """

    def __init__(self, connection: Connection, stream_id: int, method: Method, request: Request) -> None:
        self.id = stream_id
        self.method = method
        self.path = request.path
        self.headers: Headers = request.headers
        self.begun = connection.now
        self.deadline_at = math.inf if request.timeout == math.inf else self.begun + request.timeout
        self.scope = trio.CancelScope(deadline=self.deadline_at)
        self.incoming = Incoming(min(connection.limits.max_message, method.max_message), request.gzip)
        self.outgoing = Outgoing(stream_id)
        self.closed = False
        self.owed = 0
        self.heard = connection.now
        self.stalled_since: float | None = None
        self.running = True
        self.keeping = not method.client_streaming
        self._buffered = connection.burden.buffered
        self._counted = 0
        self._told = self._kept = request.size if request.size > _SMALL else 0
        self._connection = connection
        self._arrival = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._awaiting = False
        self._unyielding = 0
        self._unwaiting = 0
        self._received = False
        self._replied = False
        self._trailers: list[tuple[bytes, bytes]] = []
        if self._told:
            self._count(self._told)

    # -- who asks -----------------------------------------------------------------------------------------------

    @property
    def peer_address(self) -> str:
        return self._connection.peer

    @property
    def subject(self) -> str:
        """The name in the client's verified certificate, "" if it has shown none."""
        return self._connection.subject

    @property
    def peer(self) -> Connection:
        """What tells the address and the certificate: ``addr()``, ``cert()``."""
        return self._connection

    @property
    def metadata(self) -> MultiDict[md.Value]:
        return MultiDict(md.metadata(self.headers))

    @property
    def deadline(self) -> Deadline | None:
        return None if self.deadline_at == math.inf else Deadline(self.deadline_at)

    @property
    def user_agent(self) -> str:
        return next((value.decode("latin-1") for name, value in self.headers if name == b"user-agent"), "")

    def forget_headers(self) -> None:
        """They say nothing to the handler, which may take its time."""
        self.headers = ()
        self._kept -= self._told
        self._told = 0
        self._count(self._kept + self.incoming.size)

    # -- receiving ----------------------------------------------------------------------------------------------

    async def recv_bytes(self) -> bytes | None:
        """The next message undecoded, None after the last.

        A checkpoint only if it has to wait, or has not for long. Raises GrpcError: for what the client sent instead of
        a message, and where a call of one message has none, or more.
        """
        incoming = self.incoming
        self._unwaiting += 1
        if not incoming.ready:
            await self._arrived()
        elif self._unwaiting > _TURN:
            self._unwaiting = 0
            await trio.lowlevel.checkpoint()
        lent = incoming.lent
        message, earned = incoming.take()
        self._connection.lent -= lent - incoming.lent
        if earned:
            self._connection.give_back(self, earned)
        if message is not None:
            self._kept += len(message) if self.keeping else 0
            self._count(self._kept + incoming.size)
        if not self.method.client_streaming:
            self._check_single(message)
        return message

    async def _arrived(self) -> None:
        self._awaiting = True
        self._unwaiting = 0
        try:
            self._connection.lend(self)
            while not self.incoming.ready:
                await self._arrival.park()
        finally:
            self._awaiting = False

    def _check_single(self, message: bytes | None) -> None:
        if message is None and not self._received:
            raise GrpcError(Code.INTERNAL, "the request has no message")
        if self.incoming.more:  # one that comes later is not waited for
            raise GrpcError(Code.INTERNAL, "the request has more than one message")
        self._received = True

    async def recv_message(self) -> Any:
        """The next message, None after the last. Raises GrpcError."""
        data = await self.recv_bytes()
        if data is None:
            return None
        try:
            return self._connection.codec.decode(data, self.method.request_type)
        except Exception as error:
            raise GrpcError(Code.INTERNAL, f"cannot decode the request: {type(error).__name__}") from error

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    # -- sending ------------------------------------------------------------------------------------------------

    def send_soon(self, payload: bytes) -> bool:
        """Queue a message that is encoded already. Never waits; True says that enough is queued: wait for `room`."""
        outgoing = self.outgoing
        if not outgoing.started:
            outgoing.start()
        self._replied = True
        outgoing.add(framed(payload))
        self._connection.ready(self)
        self._unyielding += 1
        return outgoing.size > HIGH_WATER or self._unyielding > _TURN or self.closed

    async def room(self) -> None:
        """Until there is room for more. A checkpoint."""
        self._unyielding = 0
        if self.outgoing.size <= HIGH_WATER or self.closed:
            await trio.lowlevel.checkpoint()
        while self.outgoing.size > HIGH_WATER and not self.closed:
            await self._room.park()

    async def send_bytes(self, payload: bytes) -> None:
        """Send a message that is encoded already; waits while too much is unsent."""
        if self.send_soon(payload):
            await self.room()

    async def send_message(self, message: Any) -> None:
        await self.send_bytes(self._connection.codec.encode(message))

    async def send_initial_metadata(self, *, metadata: md.Sent | None = None) -> None:
        """Send the initial metadata now rather than with the first message. Raises RuntimeError the second time."""
        if self.outgoing.started:
            raise RuntimeError("the initial metadata has been sent")
        self.outgoing.start(md.fields(metadata or ()))
        self._connection.ready(self)

    def trailers(self, fields: Headers) -> None:
        """Fields to send with the status, whatever it will be."""
        self._trailers += fields

    async def send_trailing_metadata(
        self,
        *,
        status: Status | Code = Status.OK,
        status_message: str | None = None,
        status_details: Any = None,
        metadata: md.Sent | None = None,
    ) -> None:
        """End the call. Without it the call ends when its handler returns or raises."""
        self.trailers(md.fields(metadata or ()))
        self._end(_from_grpclib(status, status_message, status_details))

    async def cancel(self) -> None:
        """End the call without a status, by a reset."""
        self._connection.reset(self, h2.CANCEL)

    # -- the connection's side ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """The handler, and the status that becomes of it. Whatever it raises ends this call and nothing else."""
        try:
            with self.scope:
                await self.method.func(self)
            self._end(_LATE if self.scope.cancelled_caught else _FINE)
        except Exception as raised:  # noqa: BLE001 — the boundary
            self._end(self._status(raised))
        finally:
            self.running = False
            self._connection.forget_if_done(self)

    def _status(self, raised: Exception) -> GrpcError:
        while isinstance(raised, ExceptionGroup) and len(raised.exceptions) == 1:
            raised = raised.exceptions[0]
        if isinstance(raised, GrpcError):
            return raised
        if isinstance(raised, GRPCError):
            return _from_grpclib(raised.status, raised.message, raised.details)
        request_id = self._connection.next_failure()
        _log.error("a handler failed: %s %s", self.path.decode("latin-1"), request_id, exc_info=raised)
        return GrpcError(Code.INTERNAL, f"internal error {request_id}")

    def _end(self, status: GrpcError) -> None:
        if self.closed or self.outgoing.ended:
            return
        if not status.code and not self._replied and not self.method.server_streaming:
            _log.error("a handler returned without a reply: %s", self.path.decode("latin-1"))
            status = GrpcError(Code.INTERNAL, "the handler gave no reply")
        self.outgoing.end((*status_fields(status), *self._trailers) if status.code or self._trailers else ())
        self._connection.ready(self)

    def received(self, data: bytes, cost: int) -> None:
        """Bytes from the client that took ``cost`` of the window."""
        self.incoming.feed(data, cost)
        self.heard = self._connection.now
        if self.incoming.error is None:
            self._count(self._counted + len(data))
            if self.keeping and not self._received and not self._buffered.room(0, self._counted):
                self.fail(GrpcError(Code.UNAVAILABLE, self._connection.burden.no_room().message))
        if self._awaiting:
            if self.incoming.ready:
                self._arrival.unpark_all()
            else:
                self._connection.lend(self)

    def overdue(self, since: float) -> bool:
        """Whether the handler waits for a message that has to be on its way, and nothing of it has come after
        ``since``; or for the rest of a request that was begun before, where others want for room.
        """
        if not self._awaiting:
            return False
        if self.keeping and not self._received and self.begun < since and self._buffered.tight:
            return True
        owed = self.incoming.torn or not (self.method.client_streaming or self._received)
        return owed and self.heard < since

    def fail(self, error: GrpcError) -> None:
        """Nothing more is received: the handler gets ``error``."""
        self.incoming.error = error
        self._arrival.unpark_all()

    def ended(self) -> None:
        """The client has said everything."""
        self.incoming.end()
        self._arrival.unpark_all()

    def sent(self) -> None:
        """Some of what was queued has been taken by the writer."""
        if self._room and self.outgoing.size <= HIGH_WATER:
            self._room.unpark_all()
        if self.outgoing.done:
            self._connection.forget_if_done(self)

    def abandon(self) -> None:
        """Nobody is interested any more: cancel the handler, send nothing."""
        self.closed = True
        self.scope.cancel()
        self._room.unpark_all()

    def release(self) -> None:
        """Nothing of it is held any more."""
        self._count(0)

    def _count(self, held: int) -> None:
        self._buffered.held += held - self._counted
        self._counted = held


def status_fields(status: GrpcError) -> list[tuple[bytes, bytes]]:
    """The trailers that a status is."""
    fields = [(b"grpc-status", b"%d" % status.code)]
    if status.message:
        fields.append((b"grpc-message", encode_text(status.message).encode()))
    if status.details:
        fields.append((b"grpc-status-details-bin", encode_binary(status.details)))
    return fields


def _from_grpclib(status: Status | Code, message: str | None, details: Any = None) -> GrpcError:
    code = Code(status.value)
    if not details:
        return GrpcError(code, message or "")
    from grpclib.encoding.proto import ProtoStatusDetailsCodec  # googleapis are only needed here

    encoded: bytes = ProtoStatusDetailsCodec().encode(Status(code.value), message or "", details)
    return GrpcError(code, message or "", encoded)
