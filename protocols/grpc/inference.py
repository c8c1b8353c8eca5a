"""inference.v1.InferenceService: OpenAI's operations as calls, answered by the same core as over HTTP. (T)

Every answer has ``x-request-id`` in its initial metadata. A bug in one call is INTERNAL in that call's status, its
traceback in the log under the same id, and nothing else. A client that resets its call cancels it wherever it is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from grpclib.const import Cardinality, Handler

from gateway.burden import Burden
from gateway.errors import GatewayError, InvalidRequest, ModelNotFound
from gateway.ports import Exchange
from gateway.request_id import RequestIds
from gateway.types import Headers, Identity, InferenceRequest, ModelCard, Operation
from gateway.wire.grpc import GrpcError
from protocols.grpc import answers, translate
from protocols.grpc.exchange import GrpcExchange, Stream
from protocols.grpc.generated.upb import inference as pb
from protocols.openai.parse import parse

if TYPE_CHECKING:
    from google.protobuf.message import Message

_log = logging.getLogger("infer_gateway.grpc")
_PREFIX: Final = "/inference.v1.InferenceService/"
_OWNER: Final = "infer-gateway"
_PAGE: Final = 100
_PAGE_MAX: Final = 1000


class Core(Protocol):
    """What the service stands on: see `protocols.openai.serve.Core`."""

    def serve(self, exchange: Exchange, /) -> Awaitable[None]: ...
    def known(self, headers: Headers, peer: str, subject: str = "", /) -> Identity | None: ...
    async def identify(self, headers: Headers, peer: str, subject: str = "", /) -> Identity: ...
    def models(self, identity: Identity, /) -> Sequence[ModelCard]: ...
    def refused(
        self,
        operation: Operation,
        error: GatewayError,
        request_id: str,
        identity: Identity | None,
        headers: Headers,
        protocol: str,
        /,
    ) -> None: ...


class Method(msgspec.Struct, frozen=True):
    """How one call is an operation: the body of its message, and the messages of the answer.

    ``answer`` is chosen by the message: `answers` has one function a kind.
    """

    operation: Operation
    body: Callable[[Any], bytes]
    answer: Callable[[Any], Callable[[bytes], bytes]]


_CHAT: Final = Method(Operation.CHAT, partial(translate.generation, stream=False), lambda _: answers.chat)
_CHAT_STREAM: Final = Method(
    Operation.CHAT,
    lambda message: translate.generation(message.request, stream=True),
    lambda _: answers.chat_event,
)
_COMPLETION: Final = Method(
    Operation.COMPLETIONS, partial(translate.generation, stream=False), lambda _: answers.completion
)
_COMPLETION_STREAM: Final = Method(
    Operation.COMPLETIONS,
    lambda message: translate.generation(message.request, stream=True),
    lambda _: answers.completion_event,
)
_EMBEDDING: Final = Method(Operation.EMBEDDINGS, translate.embedding, lambda _: answers.embeddings)
_COUNT: Final = Method(
    Operation.TOKENIZE,
    translate.tokenize,
    lambda message: answers.tokens if message.return_tokens else answers.count,
)


class Inference:
    """The service. Its messages are upb's, a hundred times as fast as those that the generated base comes with."""

    def __init__(self, core: Core, burden: Burden | None = None) -> None:
        self._core = core
        self._burden = burden or Burden()
        self._ids = RequestIds()

    def __mapping__(self) -> dict[str, Handler]:
        unary, stream = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        rows = (
            ("CreateChatCompletion", partial(self._infer, _CHAT), unary),
            ("StreamChatCompletion", partial(self._infer, _CHAT_STREAM), stream),
            ("CreateCompletion", partial(self._infer, _COMPLETION), unary),
            ("StreamCompletion", partial(self._infer, _COMPLETION_STREAM), stream),
            ("CreateEmbedding", partial(self._infer, _EMBEDDING), unary),
            ("CountTokens", partial(self._infer, _COUNT), unary),
            ("ListModels", partial(self._look_up, self._page), unary),
            ("GetModel", partial(self._look_up, self._model), unary),
        )
        return {
            _PREFIX + name: Handler(func, cardinality, getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response"))
            for name, func, cardinality in rows
        }

    # -- inference --------------------------------------------------------------------------------------------------

    async def _infer(self, method: Method, stream: Stream) -> None:
        exchange = GrpcExchange(stream, self._request_id(stream.headers))
        await _ended(exchange, self._walk(method, stream, exchange))

    async def _walk(self, method: Method, stream: Stream, exchange: GrpcExchange) -> None:
        """One call through the core; strangers' messages are not read. Raises GatewayError for one that does not get
        there.
        """
        identity: Identity | None = None
        try:
            refusal = self._burden.refusal(1)  # no call is without a message
            if refusal is not None:
                raise refusal
            identity = await self._identity(stream)
            message = await stream.recv_message()
            exchange.tell = method.answer(message)
            exchange.request = _request(method, message, stream, exchange.id, identity)
            await self._core.serve(exchange)
        except GatewayError as error:
            self._core.refused(method.operation, error, exchange.id, identity, stream.headers, "grpc")
            raise

    async def _identity(self, stream: Stream) -> Identity:
        core, headers, peer, subject = self._core, stream.headers, stream.peer_address, stream.subject
        known = core.known(headers, peer, subject)
        return known if known is not None else await core.identify(headers, peer, subject)

    def _request_id(self, headers: Headers) -> str:
        return self._ids.of(next((given for name, given in headers if name == b"x-request-id"), None))

    # -- models -----------------------------------------------------------------------------------------------------

    async def _look_up(self, tell: Callable[[Any, Sequence[ModelCard]], Message], stream: Stream) -> None:
        """``tell``: the answer, from the message and the models that the caller may use."""
        exchange = GrpcExchange(stream, self._request_id(stream.headers))
        await _ended(exchange, self._looked_up(tell, stream, exchange))

    async def _looked_up(
        self, tell: Callable[[Any, Sequence[ModelCard]], Message], stream: Stream, exchange: GrpcExchange
    ) -> None:
        cards = self._core.models(await self._identity(stream))
        answer = tell(await stream.recv_message(), cards)
        await exchange.start(200, ())
        stream.send_soon(answer.SerializeToString())

    def _page(self, asked: pb.ListModelsRequest, cards: Sequence[ModelCard]) -> Message:
        """By id, so that a page begins where the one before ended though models have come and gone."""
        if asked.page_size < 0:
            raise InvalidRequest("'page_size' must not be negative.", param="page_size")
        size = min(asked.page_size or _PAGE, _PAGE_MAX)
        rest = sorted((card for card in cards if card.id > asked.page_token), key=lambda card: card.id)
        listed = [_listed(card) for card in rest[:size]]
        return pb.ListModelsResponse(models=listed, next_page_token=rest[size - 1].id if len(rest) > size else "")

    def _model(self, asked: pb.GetModelRequest, cards: Sequence[ModelCard]) -> Message:
        for card in cards:
            if card.id == asked.model:
                return pb.GetModelResponse(model=_listed(card))
        raise ModelNotFound(f"The model '{asked.model[:200]}' does not exist.", param="model")


async def _ended(exchange: GrpcExchange, work: Awaitable[None]) -> None:
    """Do ``work``. Raises GrpcError for what the call then has to end with; only cancellation passes beside it."""
    try:
        await work
    except GrpcError:
        raise  # what came is no message
    except GatewayError as error:
        await exchange.fail(error)
    except Exception:  # noqa: BLE001  the boundary of one call: a bug ends it alone
        _log.exception("request %s failed unexpectedly", exchange.id)
        await exchange.fail(GatewayError(f"The gateway failed unexpectedly on request {exchange.id}."))
    if exchange.failure is not None:
        try:
            raise exchange.failure
        finally:
            exchange.failure = None  # whose traceback has this frame: all of the call would stay, its connection, too


def _request(method: Method, message: Any, stream: Stream, request_id: str, identity: Identity) -> InferenceRequest:
    """Raises InvalidRequest."""
    operation = method.operation
    parsed = parse(
        operation,
        method.body(message),
        stream.headers,
        request_id=request_id,
        path=operation.value,
        identity=identity,
    )
    return msgspec.structs.replace(parsed, protocol="grpc", deadline=stream.deadline_at)


def _listed(card: ModelCard) -> pb.Model:
    return pb.Model(
        id=card.id,
        created=card.created,
        owned_by=card.owned_by or _OWNER,
        parent=card.parent,
        max_model_len=card.max_model_len,
    )
