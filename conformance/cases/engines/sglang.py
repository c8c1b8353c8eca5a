"""SGLang 0.4.6 and later: what its adapter, its scraper and its discovery take for granted. (T)

Sources: SGLang 0.4.6 to 0.5.23, and answers recorded from 0.5.23 with its kernels replaced.
"""

from __future__ import annotations

from typing import Any

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.aborts import ABORTS
from conformance.cases.engines.shared.held import held
from conformance.cases.engines.shared.metrics import METRICS, seen
from conformance.cases.engines.shared.signals import Signals, quiet, read
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, Target

PROFILE = Profile("engine/sglang", "SGLang 0.4.6 and later", deviations=DEVIATIONS.get("sglang", {}))

SIGNALS = Signals(
    mark="sglang:",
    off="--enable-metrics",
    stream_noticed=3.0,  # aborted two seconds later at the latest
    whole_noticed=6.0,  # looked for every four seconds
    running=["sglang:num_running_reqs"],
    waiting=["sglang:num_queue_reqs"],
    usage=["sglang:token_usage"],
    prompt=["sglang:prompt_tokens_total"],
    generated=["sglang:generation_tokens_total"],
    finished=["sglang:num_requests_total"],
    hits=["sglang:cached_tokens_total"],
    ttft=["sglang:time_to_first_token_seconds"],
    tpot=[
        "sglang:inter_token_latency_seconds",
        "sglang:time_per_output_token_seconds",
        "sglang:request_time_per_output_token_seconds",
    ],
)
METRICS.add(PROFILE, SIGNALS, "SGLang 0.5.23, metrics collector")
ABORTS.add(PROFILE, SIGNALS, "SGLang 0.5.23, tokenizer manager: SGLANG_REQUEST_STATE_WAIT_TIMEOUT")

CONTEXT = r"longer than the model's context length|maximum context length"
_API = "SGLang 0.5.23, entrypoints/openai"
_HTTP = "SGLang 0.5.23, http_server"


# --- what it is and serves --------------------------------------------------------------------------------------------


@PROFILE.case("metrics.pages", "The page size of the KV cache is told", source="SGLang 0.5.13", level=Level.SHOULD)
async def pages(target: Target) -> None:
    page = await read(target, SIGNALS)
    sizes = [sample.value for sample in page.series("sglang:page_size")]
    sizes = sizes or [float(page.label("sglang:cache_config_info", "page_size") or 0)]
    check.at_least(sizes[0], 1, "page_size, a gauge or a label of cache_config_info,")


@PROFILE.case("health", "/health is 200, though it may take a second", source=_HTTP)
async def health(target: Target) -> None:
    (await target.ask("/health", key="")).expect(200)


@PROFILE.case("models", "Models are listed as SGLang's, with their context length", source=_HTTP)
async def models(target: Target) -> None:
    card = await asked.card(target, target.setup.model)
    check.equal(card.get("owned_by"), "sglang", "owned_by, by which SGLang is recognised,")
    if card.get("parent") is None:
        check.at_least(check.kind(card.get("max_model_len"), int, "max_model_len"), 1, "max_model_len")


@PROFILE.case("model-info", "/get_model_info has the model's path", source=_HTTP, level=Level.SHOULD)
async def model_info(target: Target) -> None:
    answer = await target.ask("/get_model_info")
    check.kind(check.member(answer.expect(200).json, "model_path"), str, "model_path")


@PROFILE.case("version", "/server_info or /get_server_info tells the release", source=_HTTP, level=Level.SHOULD)
async def version(target: Target) -> None:
    answer = await target.ask("/server_info")
    if answer.status == 404:
        answer = await target.ask("/get_server_info")
    check.matches(check.member(answer.expect(200).json, "version"), r"^v?\d+\.\d+", "the version")


@PROFILE.case("tokenize", "/tokenize answers tokens and their number", source="SGLang 0.5.23, /tokenize")
async def tokenize(target: Target) -> None:
    answer = await target.ask("/tokenize", {"model": target.setup.model, "prompt": "Hello there, tell me a story."})
    made = target.may_refuse(answer).expect(200).json
    tokens = check.kind(check.member(made, "tokens"), list, "tokens")
    check.true(tokens, "a text has no tokens", "some numbers", tokens)
    check.equal(check.member(made, "count"), len(tokens), "count, beside the number of tokens,")


@PROFILE.case("rerank", "Rerank answers an array of scores with their index", source="SGLang 0.5.23, /v1/rerank")
async def rerank(target: Target) -> None:
    ranked = check.kind(await asked.reranked(target), list, "the answer")
    check.equal(sorted(check.member(each, "index") for each in ranked), [0, 1, 2], "the documents' numbers")
    for each in ranked:
        check.kind(check.member(each, "score"), (int, float), "score")


@PROFILE.case("messages", "A Messages stream ends with message_stop", source="SGLang 0.5.23, /v1/messages")
async def messages(target: Target) -> None:
    await asked.messages_stream(target)


@PROFILE.case("idle", "An idle connection is kept for two seconds", source="SGLang 0.5.23, SGLANG_TIMEOUT_KEEP_ALIVE=5")
async def idle(target: Target) -> None:
    await asked.idle(target)


@PROFILE.case("unknown-model", "Any model's name is answered, and echoed", source=_API, level=Level.INFO)
async def unknown_model(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(model=asked.UNKNOWN))
    check.equal(answer.expect(200).json.get("model"), asked.UNKNOWN, "the model of the answer")


# --- streams ----------------------------------------------------------------------------------------------------------


@PROFILE.case("stream.reasoning", "Deltas have reasoning_content, null or not", source=_API, level=Level.SHOULD)
async def reasoning(target: Target) -> None:
    deltas = [delta for delta in (await target.streamed()).deltas() if delta.get("content")]
    if not deltas:
        target.skip("the model thinks beyond the limit")
    check.contains(deltas[0], "reasoning_content", "a delta")


@PROFILE.case("stream.finish", "The finish reason comes in a chunk without text", source=_API, level=Level.INFO)
async def finish(target: Target) -> None:
    ending = [choice for choice in (await target.streamed()).choices() if choice.get("finish_reason")]
    check.equal(len(ending), 1, "the number of finish reasons")
    check.true(not ending[0]["delta"].get("content"), "the finish reason comes with text", "an empty delta", ending[0])
    check.contains(ending[0], "matched_stop", "the last choice")


@PROFILE.case("stream.continuous-usage", "continuous_usage_stats counts all along", source=_API, level=Level.INFO)
async def continuous_usage(target: Target) -> None:
    stream = await target.streamed(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in stream.chunks if chunk.get("usage")]
    check.at_least(len(counts), 3, "the number of chunks with usage")
    check.equal(counts, sorted(counts), "completion_tokens, which only grow,")


# --- refusals ---------------------------------------------------------------------------------------------------------


@PROFILE.case("error.context", "A prompt longer than the context is 400 and says so, streamed or not", source=_API)
async def context(target: Target) -> None:
    for stream in (False, True):
        answer = await asked.too_long(target, stream=stream)
        answer.expect(400)
        check.matches(asked.errors_of(answer).get("message", ""), CONTEXT, "the message")


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=_HTTP)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("error.shape", "Errors are flat objects with the status as code", source=_API, level=Level.SHOULD)
async def error_shape(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(temperature=-3))).expect(400)
    check.kind(check.member(answer.json, "message", "the error"), str, "its message")
    check.equal(check.member(answer.json, "code", "the error"), 400, "its code")


@PROFILE.case("error.not-object", "A body that is a list is 500 in plain text", source=_HTTP, level=Level.INFO)
async def not_object(target: Target) -> None:
    answer = await target.ask(CHAT, body=b"[1, 2]")
    check.equal((answer.status, answer.media_type), (500, "text/plain"), "status and type of the answer")


@PROFILE.case("error.key", "A wrong key is 401", source="SGLang 0.5.23, --api-key")
async def wrong_key(target: Target) -> None:
    if not target.setup.key:
        target.skip("needs --api-key: a server that demands one")
    answer = await target.ask(CHAT, target.chat(), key="sk-wrong")
    answer.expect(401)


@PROFILE.case(
    "error.queue-full", "A full queue is 503; a stream may have begun with 200 and says so in an event",
    source="SGLang 0.5.23, --max-queued-requests", alone=True, needs=("full_at",),
)  # fmt: skip
async def queue_full(target: Target) -> None:
    count = int(target.setup.extra["full_at"])
    await quiet(target, SIGNALS)
    async with held(target, count) as requests:
        await seen(target, SIGNALS, requests, lambda page: SIGNALS.held(page) >= count, f"{count} requests")
        (await target.ask(CHAT, target.chat())).expect(503)
        answer = await target.ask(CHAT, target.chat(stream=True))
    if answer.status == 503:
        return
    stream = answer.expect(200).stream()
    check.true(stream.errors, "no event of the stream is an error", '{"error": {…, "code": 503}}', answer.text)
    check.equal(check.member(stream.errors[0], "error.code", "the error's event"), 503, "the error's code")
    check.equal(stream.done, 1, "the number of [DONE]")


# --- what it drops ----------------------------------------------------------------------------------------------------


def _drops(name: str, value: Any) -> None:
    @PROFILE.case(
        f"drops.{name}", f"{name} is dropped without a word: an adapter has to refuse it",
        source="SGLang 0.5.23, ChatCompletionRequest", level=Level.INFO,
    )  # fmt: skip
    async def dropped(target: Target) -> None:
        await asked.unconstrained(target, name, value)


_drops("guided_regex", asked.CHOICE)
_drops("structured_outputs", {"choice": [asked.CHOICE]})


# --- LoRA -------------------------------------------------------------------------------------------------------------


_LORAS = asked.LoraPaths("/load_lora_adapter", "/unload_lora_adapter")


@PROFILE.case("lora.listed", "A LoRA is listed with its base model as parent", source=_HTTP, alone=True)
async def lora_listed(target: Target) -> None:
    async with asked.lora(target, _LORAS) as name:
        await asked.has_parent(target, name)


@PROFILE.case("lora.asked", "A LoRA is asked for as base:adapter", source="SGLang 0.5.5, serving_base", alone=True)
async def lora_asked(target: Target) -> None:
    async with asked.lora(target, _LORAS) as name:
        base = (await asked.has_parent(target, name))["parent"]
        await target.chatted(model=f"{base}:{name}")
        answer = await target.ask(CHAT, target.chat(model=f"{base}:{asked.UNKNOWN}"))
        check.true(answer.status >= 400, "a LoRA that is not loaded is answered", "an error", answer.text)


@PROFILE.case(
    "lora.loading", "A LoRA comes and goes at run time", source="SGLang 0.5.23, --enable-lora", needs=("lora_path",),
    alone=True,
)  # fmt: skip
async def lora_loading(target: Target) -> None:
    await asked.loading(target, _LORAS)
