"""Calls with one answer: what each method gives. (T)"""

from __future__ import annotations

import json

import trio

from conformance.cases.grpc.calls import answered, called, chat, linked, offered, path
from conformance.cases.grpc.messages import api
from conformance.cases.grpc.profile import HTTP2, NEEDS, PROFILE, PROTO
from conformance.suite import check, rpc
from conformance.suite.case import Level
from conformance.suite.target import Target

_STREAMS = 100


@PROFILE.case("chat", "CreateChatCompletion answers with one message and its usage", source=PROTO, needs=NEEDS)
async def one_chat(target: Target) -> None:
    answer = await answered(target, "CreateChatCompletion", chat(target))
    check.true(answer.id, "the answer has no id")
    check.true(answer.created, "the answer has no time of creation")
    check.equal(answer.model, target.setup.model, "model")
    check.equal([choice.index for choice in answer.choices], [0], "the indexes of choices")
    check.equal(answer.choices[0].message.role, "assistant", "the role")
    check.true(answer.choices[0].finish_reason, "the choice has no finish_reason")
    usage = answer.usage
    check.at_least(usage.prompt_tokens, 1, "prompt_tokens")
    check.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "total_tokens")
    check.at_most(usage.completion_tokens, 8, "completion_tokens, of max_tokens 8")


@PROFILE.case(
    "chat.zero",
    "A 0 that is given is no absence: temperature 0 repeats itself",
    source=f"{PROTO}: optional scalars",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def zero(target: Target) -> None:
    said = [
        (await answered(target, "CreateChatCompletion", chat(target, temperature=0.0))).choices[0].message.content
        for _ in range(2)
    ]
    check.equal(said[1], said[0], "the text of the second of two answers at temperature 0")


@PROFILE.case(
    "chat.extra",
    "extra_body_json adds members to the body, and replaces none",
    source=f"{PROTO}: extra_body_json",
    needs=NEEDS,
)
async def extra(target: Target) -> None:
    answer = await answered(target, "CreateChatCompletion", chat(target, extra_body_json='{"top_p": 1.0}'))
    check.true(answer.choices, "the answer has no choices")
    taken: tuple[dict[str, object], ...] = ({"model": "other"}, {"stream": True}, {"messages": []})
    for members in taken:
        call = await called(target, "CreateChatCompletion", chat(target, extra_body_json=json.dumps(members)))
        call.expect(rpc.INVALID_ARGUMENT)
    for text in ("[]", "{", "7"):
        (await called(target, "CreateChatCompletion", chat(target, extra_body_json=text))).expect(rpc.INVALID_ARGUMENT)


@PROFILE.case("completion", "CreateCompletion answers with a text and its usage", source=PROTO, needs=NEEDS)
async def completion(target: Target) -> None:
    message = api.CreateCompletionRequest(model=target.setup.model, prompt=[api.Prompt(text="Once")], max_tokens=8)
    answer = await answered(target, "CreateCompletion", message)
    check.equal([choice.index for choice in answer.choices], [0], "the indexes of choices")
    check.true(answer.choices[0].finish_reason, "the choice has no finish_reason")
    check.at_least(answer.usage.completion_tokens, 1, "completion_tokens")


@PROFILE.case("embedding", "CreateEmbedding gives a vector for each input, in order", source=PROTO, needs=NEEDS)
async def embedding(target: Target) -> None:
    model = target.setup.embedding_model or target.setup.model
    message = api.CreateEmbeddingRequest(model=model, input=[api.Prompt(text="a"), api.Prompt(text="b")])
    call = await called(target, "CreateEmbedding", message)
    if call.code == rpc.INVALID_ARGUMENT:
        target.skip(f"{model} makes no embeddings: {call.message}")
    offered(target, call).expect(rpc.OK)
    data = call.received[0].data
    check.equal([each.index for each in data], [0, 1], "the indexes of embeddings")
    check.equal(len({len(each.embedding) for each in data}), 1, "the number of different dimensions")
    check.at_least(len(data[0].embedding), 1, "the dimensions")


@PROFILE.case("count", "CountTokens counts, and tells the tokens if asked", source=PROTO, needs=NEEDS)
async def count(target: Target) -> None:
    message = api.CountTokensRequest(model=target.setup.model, prompt="one two three", return_tokens=True)
    answer = await answered(target, "CountTokens", message)
    check.at_least(answer.count, 1, "count")
    check.equal(len(answer.tokens), answer.count, "the number of tokens told")
    bare = await answered(
        target, "CountTokens", api.CountTokensRequest(model=target.setup.model, prompt="one two three")
    )
    check.equal(list(bare.tokens), [], "the tokens that nobody asked for")


@PROFILE.case("models", "ListModels lists by id, the model under test too", source=f"{PROTO}; AIP-132", needs=NEEDS)
async def models(target: Target) -> None:
    answer = await answered(target, "ListModels", api.ListModelsRequest())
    names = [model.id for model in answer.models]
    check.contains(names, target.setup.model, "the listing")
    check.equal(names, sorted(set(names)), "the order of ids")


@PROFILE.case("models.pages", "Pages together are the whole listing", source=f"{PROTO}; AIP-158", needs=NEEDS)
async def pages(target: Target) -> None:
    whole = [model.id for model in (await answered(target, "ListModels", api.ListModelsRequest())).models]
    found: list[str] = []
    token = ""
    for _ in range(len(whole) + 1):
        page = await answered(target, "ListModels", api.ListModelsRequest(page_size=1, page_token=token))
        check.at_most(len(page.models), 1, "the number of models in a page of 1")
        found += [model.id for model in page.models]
        token = page.next_page_token
        if not token:
            break
    check.equal(token, "", "next_page_token of the last page")
    check.equal(found, whole, "the pages together")


@PROFILE.case(
    "models.bad-page", "A page of fewer than no models is refused", source="AIP-158", level=Level.SHOULD, needs=NEEDS
)
async def bad_page(target: Target) -> None:
    (await called(target, "ListModels", api.ListModelsRequest(page_size=-1))).expect(rpc.INVALID_ARGUMENT)


@PROFILE.case("model", "GetModel tells what the listing does", source=f"{PROTO}; AIP-131", needs=NEEDS)
async def model(target: Target) -> None:
    listed = (await answered(target, "ListModels", api.ListModelsRequest())).models
    one = await answered(target, "GetModel", api.GetModelRequest(model=target.setup.model))
    (found,) = [each for each in listed if each.id == target.setup.model]
    check.equal(one.model.id, found.id, "the id")
    check.equal((one.model.owned_by, one.model.parent), (found.owned_by, found.parent), "owned_by and parent")


@PROFILE.case(
    "metadata.request-id",
    "x-request-id comes back in the initial metadata, made where none was sent",
    source=f"{PROTO}: Metadata",
    needs=NEEDS,
)
async def request_id(target: Target) -> None:
    call = await called(target, "ListModels", api.ListModelsRequest(), also=[("x-request-id", "conformance-g.1")])
    check.equal(dict(call.initial).get("x-request-id"), "conformance-g.1", "x-request-id of the initial metadata")
    made = {
        dict((await called(target, "ListModels", api.ListModelsRequest())).initial).get("x-request-id")
        for _ in range(2)
    }
    check.true(None not in made and len(made) == 2, "ids are not made for each call", "two ids", sorted(map(str, made)))


@PROFILE.case(
    "metadata.long-id",
    "An id of 4 KB does not come back as it is",
    source="logs are made of it",
    level=Level.SHOULD,
    needs=NEEDS,
)
async def long_id(target: Target) -> None:
    call = await called(target, "ListModels", api.ListModelsRequest(), also=[("x-request-id", "a" * 4096)])
    check.at_most(len(call.metadata.get("x-request-id", "")), 1024, "the length of x-request-id")


@PROFILE.case("metadata.others", "Metadata that nobody knows, binary too, disturbs nobody", source=HTTP2, needs=NEEDS)
async def others(target: Target) -> None:
    also = [
        ("x-conformance", "1"),
        ("x-conformance-bin", "AAECAw"),
        ("traceparent", "00-0-0-0"),
        ("grpc-tags-bin", "AAA"),
    ]
    (await called(target, "ListModels", api.ListModelsRequest(), also=also)).expect(rpc.OK)


@PROFILE.case(
    "many",
    f"{_STREAMS} calls at once on one connection, each with its own answer",
    source="RFC 9113 §5; confidentiality",
    needs=NEEDS,
)
async def many(target: Target) -> None:
    async with linked(target) as link:

        async def one(number: int) -> None:
            name = f"no-such-model-{number:03}-end"
            call = await link.unary(path("GetModel"), api.GetModelRequest(model=name), api.GetModelResponse)
            call.expect(rpc.NOT_FOUND)
            others = [n for n in range(_STREAMS) if n != number and f"no-such-model-{n:03}-end" in str(call.fields)]
            check.equal(others, [], "the numbers of other calls in an answer")

        await _opened(link)
        async with trio.open_nursery() as nursery:
            for number in range(_STREAMS):
                nursery.start_soon(one, number)


async def _opened(link: object) -> None:
    """Let the server's settings arrive."""
    await trio.sleep(0.05)
