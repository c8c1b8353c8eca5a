"""Text Generation Inference 3: what its adapter, its scraper and its discovery take for granted. (T)

Source: TGI 3.3.7, the router.
"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.aborts import ABORTS
from conformance.cases.engines.shared.held import held
from conformance.cases.engines.shared.metrics import METRICS, seen
from conformance.cases.engines.shared.signals import Signals, quiet
from conformance.suite import check
from conformance.suite.answer import Answer, Stream
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, Target

PROFILE = Profile("engine/tgi", "Text Generation Inference 3", deviations=DEVIATIONS.get("tgi", {}))

SIGNALS = Signals(
    mark="tgi_",
    running=["tgi_batch_current_size"],
    waiting=["tgi_queue_size"],
    usage=["tgi_batch_current_max_tokens"],
    capacity=["tgi_batch_max_total_tokens"],
    prompt=["tgi_request_input_length_sum"],
    generated=["tgi_request_generated_tokens_sum"],
    finished=["tgi_request_success"],
    tpot=["tgi_request_mean_time_per_token_duration"],
)
_TGI = "TGI 3.3.7, router"
METRICS.add(PROFILE, SIGNALS, "TGI 3.3.7, router/src/server.rs and infer")
ABORTS.add(PROFILE, SIGNALS, "TGI 3.3.7, the batch is filtered in the next step")

CONTEXT = r"must have less than \d+ tokens|must be <= \d+\. Given"
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


# --- what it is and serves --------------------------------------------------------------------------------------------


@PROFILE.case("health", "/health is 200", source=_TGI)
async def health(target: Target) -> None:
    (await target.ask("/health", key="")).expect(200)


@PROFILE.case("info", "/info names the model, its context length and the release", source=_TGI)
async def info(target: Target) -> None:
    found = (await target.ask("/info")).expect(200).json
    check.kind(check.member(found, "model_id"), str, "model_id")
    check.at_least(check.kind(check.member(found, "max_total_tokens"), int, "max_total_tokens"), 1, "max_total_tokens")
    check.matches(check.member(found, "version"), r"^\d+\.\d+", "the version")


@PROFILE.case("model-tgi", "The model answers to the name tgi", source=_TGI)
async def model_tgi(target: Target) -> None:
    await target.chatted(model="tgi")


@PROFILE.case("tokenize", "/tokenize and /chat_tokenize list tokens with their ids", source=_TGI)
async def tokenize(target: Target) -> None:
    text = "Hello there, tell me a story."
    plain = (await target.ask("/tokenize", {"inputs": text})).expect(200).json
    message = {"role": "user", "content": text}
    chat = (await target.ask("/chat_tokenize", {"model": "tgi", "messages": [message]})).expect(200).json
    for tokens in (plain, check.member(chat, "tokenize_response", "the answer of /chat_tokenize")):
        check.true(check.kind(tokens, list, "the tokens"), "a text has no tokens")
        check.kind(check.member(tokens[0], "id", "a token"), int, "a token's id")


@PROFILE.case("idle", "An idle connection is kept for two seconds", source=_TGI)
async def idle(target: Target) -> None:
    await asked.idle(target)


# --- /generate --------------------------------------------------------------------------------------------------------


def native(text: str = "Say hello.", **parameters: Any) -> dict[str, Any]:
    return {"inputs": text, "parameters": {"max_new_tokens": 6, "details": True, "do_sample": True, **parameters}}


@PROFILE.case("generate", "/generate answers text, and details as they were asked for", source=_TGI)
async def generate(target: Target) -> None:
    answer = await target.ask("/generate", native())
    made = answer.expect(200).json
    check.kind(check.member(made, "generated_text"), str, "generated_text")
    details = check.kind(check.member(made, "details"), dict, "details")
    check.at_least(check.member(details, "generated_tokens", "details"), 1, "generated_tokens")
    check.among(details.get("finish_reason"), ("length", "eos_token", "stop_sequence"), "the finish reason")
    check.matches(answer.headers.get("x-prompt-tokens", ""), r"^\d+$", "x-prompt-tokens, the prompt's length,")


@PROFILE.case("generate.stream", "/generate_stream: a token an event, the last with the text and details", source=_TGI)
async def generate_stream(target: Target) -> None:
    stream = _events(await target.ask("/generate_stream", native()))
    check.true(stream.chunks, "the stream has no events")
    for chunk in stream.chunks:
        check.kind(check.member(chunk, "token.text", "an event"), str, "a token's text")
        check.kind(check.member(chunk, "token.special", "an event"), bool, "a token's special")
    texts = [chunk.get("generated_text") for chunk in stream.chunks]
    check.equal([text is None for text in texts], [True] * (len(texts) - 1) + [False], "that only the last has a text")
    for member in ("finish_reason", "generated_tokens", "input_length"):
        check.member(stream.chunks[-1], f"details.{member}", "the last event")


@PROFILE.case("generate.done", "/generate_stream ends without [DONE]", source=_TGI, level=Level.INFO)
async def generate_done(target: Target) -> None:
    check.equal(_events(await target.ask("/generate_stream", native())).done, 0, "the number of [DONE]")


@PROFILE.case("generate.stop", "A stop sequence ends the text", source=_TGI, level=Level.SHOULD)
async def generate_stop(target: Target) -> None:
    first = (await target.ask("/generate", native(do_sample=False))).expect(200).json["generated_text"]
    stop = next((word for word in first.split() if word), "")
    if not stop:
        target.skip("the model says nothing that could be stopped at")
    made = (await target.ask("/generate", native(do_sample=False, stop=[stop]))).expect(200).json
    check.equal(check.member(made, "details.finish_reason"), "stop_sequence", "the finish reason")


# --- the Messages API, as it has to be mended -------------------------------------------------------------------------


@PROFILE.case("chat.chunks", "Chunks have no id and repeat the role: they are mended", source=_TGI, level=Level.INFO)
async def chat_chunks(target: Target) -> None:
    stream = _events(await target.ask(CHAT, target.chat(stream=True)))
    check.equal({chunk.get("id") for chunk in stream.chunks}, {""}, "the ids of the chunks")
    roles = [delta.get("role") for delta in stream.deltas()]
    check.equal(roles, ["assistant"] * len(roles), "the role of each chunk")


@PROFILE.case("chat.usage", "A usage chunk comes when it is asked for", source=_TGI)
async def chat_usage(target: Target) -> None:
    stream = _events(await target.ask(CHAT, target.chat(stream=True, stream_options={"include_usage": True})))
    usage = check.kind(stream.usage, dict, "the stream's usage")
    check.at_least(check.member(usage, "completion_tokens", "the usage"), 1, "completion_tokens")


def _refuses(name: str, members: dict[str, Any], why: str) -> None:
    @PROFILE.case(f"refuses.{name}", f"{why}: an adapter writes it differently", source=_TGI, level=Level.INFO)
    async def refused(target: Target) -> None:
        answer = await target.ask(CHAT, target.chat(**members))
        check.equal(answer.status, 422, "the status")


_refuses("stop", {"stop": "x"}, "A stop that is no list is 422")
_refuses("top-p", {"top_p": 1.0}, "A top_p of 1 is 422")
_refuses("limits", {"max_completion_tokens": 8}, "Both token limits at once are 422")
_refuses("json-schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": _SCHEMA}}},
         "A schema not called value is 422")  # fmt: skip


@PROFILE.case("drops.n", "n is dropped without a word: an adapter has to refuse it", source=_TGI, level=Level.INFO)
async def drops_n(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(n=2))
    check.equal(len(check.member(answer.expect(200).json, "choices")), 1, "the number of choices")


@PROFILE.case("chat.schema", "A schema called value shapes the answer", source=_TGI)
async def chat_schema(target: Target) -> None:
    form = {"type": "json_schema", "value": {"name": "city", "schema": _SCHEMA}}
    answer = await target.ask(CHAT, target.chat(response_format=form, max_tokens=48))
    choice = check.member(answer.expect(200).json, "choices.0")
    if choice.get("finish_reason") == "length":
        target.skip("the answer is cut short")
    try:
        made = json.loads(check.member(choice, "message.content"))
    except ValueError:
        check.fail("the content is no JSON", "a JSON object", choice)
    check.contains(check.kind(made, dict, "the content"), "city", "the object")


# --- refusals ---------------------------------------------------------------------------------------------------------


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=_TGI)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("error.shape", "A refusal has error and error_type", source=_TGI)
async def error_shape(target: Target) -> None:
    answer = (await target.ask("/generate", native(max_new_tokens=0))).expect(422)
    check.kind(check.member(answer.json, "error"), str, "error")
    check.equal(check.member(answer.json, "error_type"), "validation", "error_type")


@PROFILE.case("error.context", "A prompt longer than the context is 422 and says so", source=_TGI)
async def context(target: Target) -> None:
    answer = await asked.too_long(target)
    answer.expect(422)
    check.matches(check.member(answer.json, "error"), CONTEXT, "the error")


@PROFILE.case("error.context-stream", "Of a stream, a prompt too long is 422 or the first event", source=_TGI)
async def context_stream(target: Target) -> None:
    answer = await asked.too_long(target, stream=True)
    if answer.status == 200:
        check.true(_events(answer).errors, "no event of the stream is an error", CONTEXT, answer.text)
    else:
        answer.expect(422)
    check.matches(answer.text, CONTEXT, "the answer")


@PROFILE.case("error.unknown-model", "Any other model is taken for a LoRA, and refused", source=_TGI)
async def unknown_model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    check.true(answer.status >= 400, "a LoRA that is not there is answered", "an error", answer.text)


@PROFILE.case("error.key", "A wrong key is 401", source=_TGI)
async def wrong_key(target: Target) -> None:
    if not target.setup.key:
        target.skip("needs --api-key: a server that demands one")
    (await target.ask("/generate", native(), key="sk-wrong")).expect(401)


@PROFILE.case(
    "error.queue-full", "Overload is 429; a stream has begun with 200 and says so in an event",
    source="TGI 3.3.7, --max-concurrent-requests", alone=True, needs=("full_at",),
)  # fmt: skip
async def queue_full(target: Target) -> None:
    count = int(target.setup.extra["full_at"])
    await quiet(target, SIGNALS)
    async with held(target, count) as requests:
        await seen(target, SIGNALS, requests, lambda page: SIGNALS.held(page) >= count, f"{count} requests")
        for path, body in ((CHAT, target.chat(stream=True)), ("/generate_stream", native())):
            answer = await target.ask(path, body)
            if answer.status != 429:
                check.true(_events(answer).errors, "no event of the stream is an error", "overloaded", answer.text)
            check.matches(answer.text, "overloaded", "the error")
        (await target.ask(CHAT, target.chat())).expect(429)


@PROFILE.case("lora.asked", "A LoRA is asked for by its name", source=_TGI, needs=("lora",))
async def lora_asked(target: Target) -> None:
    await target.chatted(model=target.setup.lora)


def _events(answer: Answer) -> Stream:
    return answer.expect(200).stream()
