"""The typed client against a service made from the generated base: every method, its messages and its metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.wire.grpc import GrpcError
from protocols.grpc.client import Code, RpcError
from protocols.grpc.client.channel import connect
from protocols.grpc.client.inference import InferenceClient
from protocols.grpc.generated.inference import v1
from tests.protocols.grpc.served import served


class Parrot(v1.InferenceServiceBase):
    """Says what it was asked, by the model's name."""

    async def create_chat_completion(self, message: v1.CreateChatCompletionRequest) -> v1.CreateChatCompletionResponse:
        if message.model == "none":
            raise GrpcError(Code.NOT_FOUND, "no such model")
        said = v1.AssistantMessage(role="assistant", content=message.messages[0].text)
        return v1.CreateChatCompletionResponse(model=message.model, choices=[v1.ChatChoice(message=said)])

    async def stream_chat_completion(
        self, message: v1.StreamChatCompletionRequest
    ) -> AsyncIterator[v1.StreamChatCompletionResponse]:
        for word in message.request.messages[0].text.split():
            yield v1.StreamChatCompletionResponse(choices=[v1.ChatChoiceDelta(delta=v1.ChatDelta(content=word))])
        yield v1.StreamChatCompletionResponse(usage=v1.Usage(completion_tokens=3))

    async def create_completion(self, message: v1.CreateCompletionRequest) -> v1.CreateCompletionResponse:
        return v1.CreateCompletionResponse(choices=[v1.CompletionChoice(text=message.prompt[0].text)])

    async def stream_completion(
        self, message: v1.StreamCompletionRequest
    ) -> AsyncIterator[v1.StreamCompletionResponse]:
        yield v1.StreamCompletionResponse(choices=[v1.CompletionChoice(text=message.request.prompt[0].text)])

    async def create_embedding(self, message: v1.CreateEmbeddingRequest) -> v1.CreateEmbeddingResponse:
        return v1.CreateEmbeddingResponse(data=[v1.Embedding(embedding=[0.5, -1.0])])

    async def count_tokens(self, message: v1.CountTokensRequest) -> v1.CountTokensResponse:
        return v1.CountTokensResponse(count=len(message.prompt))

    async def list_models(self, message: v1.ListModelsRequest) -> v1.ListModelsResponse:
        return v1.ListModelsResponse(models=[v1.Model(id=f"size {message.page_size}")])

    async def get_model(self, message: v1.GetModelRequest) -> v1.GetModelResponse:
        return v1.GetModelResponse(model=v1.Model(id=message.model))


class Overheard(Parrot):
    """Keeps what metadata came with the last call."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    def __mapping__(self):
        def heard(func):
            async def call(stream) -> None:
                self.metadata = dict(stream.metadata)
                await func(stream)

            return call

        return {path: handler._replace(func=heard(handler.func)) for path, handler in super().__mapping__().items()}


def chat(text: str, model: str = "m") -> v1.CreateChatCompletionRequest:
    return v1.CreateChatCompletionRequest(model=model, messages=[v1.ChatMessage(role="user", text=text)])


def test_every_method_has_its_messages() -> None:
    async def main() -> None:
        async with served([Parrot()]) as (_, target), connect(target) as channel:
            client = InferenceClient(channel)
            answer = await client.create_chat_completion(chat("hello"))
            assert answer.choices[0].message.content == "hello"
            async with client.stream_chat_completion(chat("one two")) as stream:
                pieces = [piece async for piece in stream]
            assert [piece.choices[0].delta.content for piece in pieces[:-1]] == ["one", "two"]
            assert pieces[-1].usage.completion_tokens == 3

            prompt = v1.CreateCompletionRequest(prompt=[v1.Prompt(text="p")])
            assert (await client.create_completion(prompt)).choices[0].text == "p"
            async with client.stream_completion(prompt) as stream:
                assert [piece.choices[0].text async for piece in stream] == ["p"]
            embedding = await client.create_embedding(v1.CreateEmbeddingRequest(model="e"))
            assert embedding.data[0].embedding == [0.5, -1.0]
            assert (await client.count_tokens(v1.CountTokensRequest(prompt="four"))).count == 4
            assert (await client.list_models()).models[0].id == "size 0"
            assert (await client.list_models(v1.ListModelsRequest(page_size=7))).models[0].id == "size 7"
            assert (await client.get_model(v1.GetModelRequest(model="a/b"))).model.id == "a/b"

    trio.run(main)


def test_the_client_speaks_every_method_of_the_service() -> None:
    methods = {path.rpartition("/")[2] for path in Parrot().__mapping__()}
    spoken = {
        "".join(map(str.capitalize, name.split("_"))) for name in dir(InferenceClient) if not name.startswith("_")
    }
    assert spoken == methods


def test_metadata_of_the_client_and_of_the_call() -> None:
    parrot = Overheard()

    async def main() -> None:
        async with served([parrot]) as (_, target), connect(target) as channel:
            client = InferenceClient(channel, {"authorization": "Bearer k"})
            await client.create_chat_completion(chat("a"), metadata=[("x-session-id", "s")])
            assert parrot.metadata == {"authorization": "Bearer k", "x-session-id": "s"}
            await client.list_models()
            assert parrot.metadata == {"authorization": "Bearer k"}

    trio.run(main)


def test_a_failure_has_the_servers_code() -> None:
    async def main() -> None:
        async with served([Parrot()]) as (_, target), connect(target) as channel:
            with pytest.raises(RpcError, match="NOT_FOUND: no such model"):
                await InferenceClient(channel).create_chat_completion(chat("a", model="none"))

    trio.run(main)
