"""A whole chat completion: its object, its members, its usage. (P)"""

from __future__ import annotations

from conformance.cases.openai.profile import CHAT_CREATE, CHAT_OBJECT, NODE, PROFILE
from conformance.cases.openai.shapes import Chat, conform
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_EARLIEST, _LATEST = 1_600_000_000, 10_000_000_000


@PROFILE.case("chat.shape", "A chat completion has the published shape", source=CHAT_OBJECT)
async def shape(target: Target) -> None:
    conform(await target.chatted(), Chat, "the chat completion")


@PROFILE.case(
    "chat.content-type",
    "A whole answer is application/json in UTF-8",
    source=f"{NODE}: a body of another type is given back as text; RFC 8259 §8.1",
)
async def content_type(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat())).expect(200)
    check.equal(answer.media_type, "application/json", "the content type")
    try:
        answer.body.decode("utf-8")
    except UnicodeDecodeError as error:
        check.fail(f"the answer is not UTF-8: {error}")


@PROFILE.case(
    "chat.ids",
    "Every chat completion has an id of its own",
    source=f"{CHAT_OBJECT}: id is a unique identifier",
    level=Level.SHOULD,
)
async def ids(target: Target) -> None:
    first, second = await target.chatted(), await target.chatted()
    check.true(check.member(first, "id"), "the id is empty")
    check.true(first["id"] != check.member(second, "id"), "two answers have the same id", got=first["id"])


@PROFILE.case(
    "chat.created",
    "created is a Unix time in seconds",
    source=f"{CHAT_OBJECT}: created",
    level=Level.SHOULD,
)
async def created(target: Target) -> None:
    value = check.kind(check.member(await target.chatted(), "created"), int, "created")
    check.at_least(value, _EARLIEST, "created")
    check.at_most(value, _LATEST, "created, in seconds,")


@PROFILE.case("chat.model", "model is the one that was asked for", source=f"{CHAT_OBJECT}: model", level=Level.SHOULD)
async def model(target: Target) -> None:
    check.equal(check.member(await target.chatted(), "model"), target.setup.model, "the answer's model")


@PROFILE.case(
    "chat.required-members",
    "Members that are required though they may be null are there",
    source=f"{CHAT_OBJECT}: choices.logprobs, message.content and message.refusal are required",
    level=Level.SHOULD,
)
async def required_members(target: Target) -> None:
    choice = check.member(await target.chatted(), "choices.0")
    check.contains(choice, "logprobs", "the choice")
    for name in ("content", "refusal"):
        check.contains(check.member(choice, "message", "the choice"), name, "the message")


@PROFILE.case("chat.usage", "usage is there and adds up", source=f"{CHAT_OBJECT}: usage")
async def usage(target: Target) -> None:
    found = conform(await target.chatted(), Chat, "the chat completion").usage
    if found is None:
        check.fail("a whole answer has no usage")
    check.equal(found.total_tokens, found.prompt_tokens + found.completion_tokens, "total_tokens, as a sum,")
    check.at_least(found.prompt_tokens, 1, "prompt_tokens")
    cached = found.prompt_tokens_details and found.prompt_tokens_details.cached_tokens
    check.at_most(cached or 0, found.prompt_tokens, "cached_tokens, a part of prompt_tokens,")
    thought = found.completion_tokens_details and found.completion_tokens_details.reasoning_tokens
    check.at_most(thought or 0, found.completion_tokens, "reasoning_tokens, a part of completion_tokens,")


@PROFILE.case(
    "chat.usage-grows", "A longer prompt counts for more tokens", source=f"{CHAT_OBJECT}: usage", level=Level.SHOULD
)
async def usage_grows(target: Target) -> None:
    short, long = await target.chatted("Hi."), await target.chatted("Hi. " + "The quick brown fox. " * 50)
    less, more = (check.member(answer, "usage.prompt_tokens") for answer in (short, long))
    check.at_least(more, less + 50, "prompt_tokens of a prompt 200 words longer")


@PROFILE.case("chat.choice", "Without n there is one choice, and its index is 0", source=f"{CHAT_CREATE}: n")
async def choice(target: Target) -> None:
    choices = check.kind(check.member(await target.chatted(), "choices"), list, "choices")
    check.equal([c.get("index") for c in choices], [0], "the choices' indices")


@PROFILE.case(
    "chat.no-tools-no-calls",
    "Without tools no tool is called and no function_call finish is given",
    source=f"{CHAT_OBJECT}: message.tool_calls",
)
async def no_calls(target: Target) -> None:
    choice = check.member(await target.chatted(), "choices.0")
    check.true(not check.member(choice, "message").get("tool_calls"), "there are tool calls, but no tools", got=choice)
    check.among(choice.get("finish_reason"), ("stop", "length", "content_filter"), "the finish reason")


@PROFILE.case(
    "chat.stream-false", "stream: false asks for a whole answer", source=f"{CHAT_CREATE}: stream defaults to false"
)
async def stream_false(target: Target) -> None:
    for value in (False, None):
        answer = await target.ask(CHAT, {**target.chat(), "stream": value})
        check.equal(answer.expect(200).media_type, "application/json", f"the content type with stream: {value}")
        check.equal(check.member(answer.json, "object"), "chat.completion", f"object with stream: {value}")


@PROFILE.case(
    "chat.repeats",
    "The same request at temperature 0 gives the same text",
    source=f"{CHAT_CREATE}: temperature, seed",
    level=Level.INFO,
)
async def repeats(target: Target) -> None:
    texts = [
        check.member(await target.chatted("Count.", temperature=0), "choices.0.message").get("content")
        for _ in range(2)
    ]
    check.equal(texts[1], texts[0], "the text at temperature 0")
