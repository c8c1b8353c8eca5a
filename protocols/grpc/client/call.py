"""One call: messages out, messages and a status in. (T)

Invariant: what waits here unread is at most one stream's window and one unfinished message: the server gets its window
back as messages are taken. Once `over`, nothing is sent and nothing changes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from gateway.wire.grpc import Code, GrpcError, Messages, framed
from protocols.grpc.client import errors
from protocols.grpc.client.codec import encoded
from protocols.grpc.client.errors import RpcError
from protocols.grpc.metadata import Field, Metadata, metadata

if TYPE_CHECKING:
    from protocols.grpc.client.session import Session

_R = TypeVar("_R")


class Call(Generic[_R]):
    """A call under way; iterate over it for the answers. One task may send while another receives.

    ``trailing_metadata`` is there when the call is over; with an error, it is also the error's.
    """

    def __init__(self, session: Session, decode: Callable[[bytes], _R], max_message: int) -> None:
        self.trailing_metadata: Metadata = ()
        self.over = False
        self.id = 0
        self.scope: trio.CancelScope | None = None
        self._session = session
        self._decode = decode
        self._messages = Messages(max_message)
        self._initial: Metadata | None = None
        self._received: deque[bytes] = deque()
        self._waiting = 0
        self._owed = 0
        self._ended_sending = False
        self._error: RpcError | None = None
        self._news = trio.lowlevel.ParkingLot()

    # -- what a caller does -------------------------------------------------------------------------------------

    async def send(self, message: Any, *, end: bool = False) -> None:
        """Send a message, the last one if ``end``; waits while the server does not read.

        Raises RpcError if the call has failed and no answer is left to be received. After a server's status, which may
        come early, nothing more is sent. A send that is cancelled cancels the call, which could not go on after half a
        message.
        """
        if self._ended_sending:
            raise RuntimeError("this call's messages have been ended")
        self._ended_sending = end
        try:
            await self._session.send(self, framed(encoded(message)), end)
        except trio.Cancelled:
            self.cancel()
            raise
        if self._error is not None and not self._received:
            raise self._error

    async def end(self) -> None:
        """No more messages follow."""
        if not self._ended_sending:
            self._ended_sending = True
            await self._session.send(self, b"", True)

    async def receive(self) -> _R | None:
        """The next answer; None when the call has ended with OK. Raises RpcError when it ended otherwise.

        Answers that arrived before a failure come first. Cancellation loses nothing.
        """
        if self._received or self.over:
            await trio.lowlevel.checkpoint()
        while not self._received:
            if self.over:
                if self._error is not None:
                    raise self._error
                return None
            await self._news.park()
        message = self._received.popleft()
        self._waiting -= len(message)
        self._give_back()
        return self._decode(message)

    def __aiter__(self) -> Call[_R]:
        return self

    async def __anext__(self) -> _R:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def initial_metadata(self) -> Metadata:
        """What came before the first answer; waits for it. () for a call that failed without any."""
        while self._initial is None and not self.over:
            await self._news.park()
        return self._initial or ()

    def cancel(self) -> None:
        """End the call now; the server is told. Nothing happens where it is over."""
        if not self.over:
            self._session.reset(self)
            self.finish(RpcError(Code.CANCELLED, "the call was cancelled here"))

    # -- what the connection does -------------------------------------------------------------------------------

    def headed(self, fields: list[Field]) -> None:
        """The head of the answer; with ``grpc-status`` in it, nothing but trailers follows."""
        named = dict(fields)
        refused = errors.refused(named.get(b":status", b""), named.get(b"content-type", b""))
        if refused is not None and b"grpc-status" not in named:
            self._fail(refused)
        elif b"grpc-status" in named:
            self.trailed(fields)
        else:
            self._initial = metadata(fields)
            self._news.unpark_all()

    def fed(self, data: bytes, size: int) -> None:
        """Bytes of answers; ``size`` is what they took of the window, padding included."""
        self._owed += size
        try:
            messages = self._messages.feed(data)
        except GrpcError as error:
            self._fail(RpcError(error.code, error.message))
            return
        self._received += messages
        self._waiting += sum(map(len, messages))
        self._give_back()
        if messages:
            self._news.unpark_all()

    def trailed(self, fields: list[Field]) -> None:
        """The status."""
        self.trailing_metadata = metadata(fields)
        error = errors.ended(dict(fields), self.trailing_metadata)
        if error is None and not self._messages.whole:
            error = RpcError(Code.INTERNAL, "the answer ended within a message")
        self.finish(error)

    def cut(self) -> None:
        """The server ended its side; without trailers before, that is a failure."""
        if not self.over:
            self.finish(errors.ended({}, ()))

    def finish(self, error: RpcError | None) -> None:
        """The call is over; whoever waits learns of it, and its time limit ends."""
        if self.over:
            return
        self.over = True
        self._error = error
        if self.scope is not None:
            self.scope.deadline = math.inf
        self._session.forget(self)
        self._news.unpark_all()

    def _fail(self, error: RpcError) -> None:
        self._session.reset(self)
        self.finish(error)

    def _give_back(self) -> None:
        """Bytes of messages that wait to be taken stay owed; a message that is unfinished has to become whole."""
        free = self._owed - self._waiting
        if free > 0 and not self.over and self._session.credit(self, free):
            self._owed -= free
