"""The gateway's own API, typed: inference.v1 over a `Channel`. (T)

Invariant: one method for each of the service's, with its messages; what fails raises `RpcError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from protocols.grpc.client.call import Call
from protocols.grpc.client.channel import Channel
from protocols.grpc.generated.inference import v1
from protocols.grpc.metadata import Sent

_R = TypeVar("_R")
_SERVICE: Final = "/inference.v1.InferenceService/"


class InferenceClient:
    """Calls to a gateway. ``metadata`` goes with each of them, before a call's own: ``{"authorization": "Bearer …"}``.

    Deadlines are those of the cancel scopes around a call; ``timeout``, in seconds, is one that raises RpcError,
    DEADLINE_EXCEEDED. Cancelling a call cancels the work the engine does for it.
    """

    def __init__(self, channel: Channel, metadata: Sent = ()) -> None:
        self._channel = channel
        self._metadata = _pairs(metadata)

    async def create_chat_completion(
        self, request: v1.CreateChatCompletionRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.CreateChatCompletionResponse:
        """One answer to a conversation."""
        return await self._unary("CreateChatCompletion", request, v1.CreateChatCompletionResponse, metadata, timeout)

    def stream_chat_completion(
        self, request: v1.CreateChatCompletionRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> AbstractAsyncContextManager[Call[v1.StreamChatCompletionResponse]]:
        """The same as it is made: enter it, then iterate. The last message has the usage."""
        wrapped = v1.StreamChatCompletionRequest(request=request)
        return self._stream("StreamChatCompletion", wrapped, v1.StreamChatCompletionResponse, metadata, timeout)

    async def create_completion(
        self, request: v1.CreateCompletionRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.CreateCompletionResponse:
        """What follows a text."""
        return await self._unary("CreateCompletion", request, v1.CreateCompletionResponse, metadata, timeout)

    def stream_completion(
        self, request: v1.CreateCompletionRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> AbstractAsyncContextManager[Call[v1.StreamCompletionResponse]]:
        """The same as it is made: enter it, then iterate. The last message has the usage."""
        wrapped = v1.StreamCompletionRequest(request=request)
        return self._stream("StreamCompletion", wrapped, v1.StreamCompletionResponse, metadata, timeout)

    async def create_embedding(
        self, request: v1.CreateEmbeddingRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.CreateEmbeddingResponse:
        """A vector for each input."""
        return await self._unary("CreateEmbedding", request, v1.CreateEmbeddingResponse, metadata, timeout)

    async def count_tokens(
        self, request: v1.CountTokensRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.CountTokensResponse:
        """How many tokens a model makes of a prompt."""
        return await self._unary("CountTokens", request, v1.CountTokensResponse, metadata, timeout)

    async def list_models(
        self, request: v1.ListModelsRequest | None = None, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.ListModelsResponse:
        """The models that the caller may use, a page of them."""
        asked = request or v1.ListModelsRequest()
        return await self._unary("ListModels", asked, v1.ListModelsResponse, metadata, timeout)

    async def get_model(
        self, request: v1.GetModelRequest, *, metadata: Sent = (), timeout: float = math.inf
    ) -> v1.GetModelResponse:
        """One of them."""
        return await self._unary("GetModel", request, v1.GetModelResponse, metadata, timeout)

    async def _unary(self, method: str, request: Any, reply: type[_R], metadata: Sent, timeout: float) -> _R:
        sent = self._metadata + _pairs(metadata)
        return await self._channel.unary_unary(_SERVICE + method, request, reply, metadata=sent, timeout=timeout)

    def _stream(
        self, method: str, request: Any, reply: type[_R], metadata: Sent, timeout: float
    ) -> AbstractAsyncContextManager[Call[_R]]:
        sent = self._metadata + _pairs(metadata)
        return self._channel.unary_stream(_SERVICE + method, request, reply, metadata=sent, timeout=timeout)


def _pairs(metadata: Sent) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(metadata.items() if isinstance(metadata, Mapping) else metadata)
