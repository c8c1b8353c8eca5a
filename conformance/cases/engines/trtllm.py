"""trtllm-serve, TensorRT-LLM 1.0 and later: what its adapter, its scraper and its discovery take for granted. (T)

Source: TensorRT-LLM 1.2, serve/openai_server.py and metrics/collector.py.
"""

from __future__ import annotations

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.aborts import ABORTS
from conformance.cases.engines.shared.metrics import METRICS
from conformance.cases.engines.shared.signals import Signals, quiet, read
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, Target

PROFILE = Profile("engine/trtllm", "trtllm-serve", deviations=DEVIATIONS.get("trtllm", {}))

SIGNALS = Signals(
    mark="trtllm_",
    path="/prometheus/metrics",
    off="return_perf_metrics: true",
    stream_noticed=3.0,  # looked for every second
    whole_noticed=3.0,
    running=["trtllm_num_requests_running"],
    waiting=["trtllm_num_requests_waiting"],
    usage=["trtllm_kv_cache_utilization"],
    prompt=["trtllm_prompt_tokens_total"],
    generated=["trtllm_generation_tokens_total"],
    finished=["trtllm_request_success_total"],
    hits=["trtllm_prompt_cached_tokens_total"],
    ttft=["trtllm_time_to_first_token_seconds"],
    tpot=["trtllm_time_per_output_token_seconds"],
)
_SERVE = "TensorRT-LLM 1.2, openai_server.py"
METRICS.add(PROFILE, SIGNALS, "TensorRT-LLM 1.2, metrics/collector.py")
ABORTS.add(PROFILE, SIGNALS, f"{_SERVE}, await_disconnected")


@PROFILE.case("metrics.blocks", "The size and number of KV blocks are told", source=_SERVE, level=Level.SHOULD)
async def blocks(target: Target) -> None:
    page = await read(target, SIGNALS)
    for name in ("trtllm_kv_cache_tokens_per_block", "trtllm_kv_cache_max_blocks"):
        check.at_least(page.total([name]) or 0, 1, name)


@PROFILE.case(
    "metrics.drained", "/metrics is JSON that each reading empties: nothing to scrape", source=_SERVE, level=Level.INFO,
    alone=True,
)  # fmt: skip
async def drained(target: Target) -> None:
    await target.chatted()
    await quiet(target, SIGNALS)
    found = [check.kind((await target.ask("/metrics")).expect(200).json, list, "/metrics") for _ in range(2)]
    check.true(len(found[1]) < max(1, len(found[0])), "a second reading tells as much", "less than at first", found[1])


@PROFILE.case("health", "/health is 200 and cheap", source=_SERVE)
async def health(target: Target) -> None:
    (await target.ask("/health", key="")).expect(200)


@PROFILE.case("version", "/version tells the release", source=_SERVE, level=Level.SHOULD)
async def version(target: Target) -> None:
    check.matches(check.member((await target.ask("/version")).expect(200).json, "version"), r"^\d+\.\d+", "the version")


@PROFILE.case("models", "The model is listed as TensorRT-LLM's", source=_SERVE)
async def models(target: Target) -> None:
    card = await asked.card(target, target.setup.model)
    check.among(card.get("owned_by"), ("tensorrt_llm", "nvidia"), "owned_by, by which it is recognised,")


@PROFILE.case("unknown-model", "Any model's name is answered", source=_SERVE, level=Level.INFO)
async def unknown_model(target: Target) -> None:
    (await target.ask(CHAT, target.chat(model=asked.UNKNOWN))).expect(200)


@PROFILE.case("idle", "An idle connection is kept for two seconds", source=f"{_SERVE}, TIMEOUT_KEEP_ALIVE=5")
async def idle(target: Target) -> None:
    await asked.idle(target)


@PROFILE.case("stream.usage", "A usage chunk comes when it is asked for", source=_SERVE)
async def usage(target: Target) -> None:
    stream = await target.streamed(stream_options={"include_usage": True})
    found = check.kind(stream.usage, dict, "the stream's usage")
    check.at_least(check.member(found, "completion_tokens", "the usage"), 1, "completion_tokens")
    check.equal(check.member(stream.chunks[-1], "choices", "the last chunk"), [], "the last chunk's choices")


@PROFILE.case("usage.cached", "Usage tells the cached tokens", source=_SERVE, level=Level.INFO)
async def cached(target: Target) -> None:
    found = check.member(await target.chatted(), "usage.prompt_tokens_details.cached_tokens")
    check.at_least(check.kind(found, int, "cached_tokens"), 0, "cached_tokens")


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=_SERVE)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("error.shape", "Errors are flat objects with the status as code", source=_SERVE, level=Level.SHOULD)
async def error_shape(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(messages=[]))
    check.true(answer.status >= 400, "a chat without messages is answered", "an error", answer.text)
    check.kind(check.member(answer.json, "message", "the error"), str, "its message")
    check.equal(check.member(answer.json, "code", "the error"), answer.status, "its code")


@PROFILE.case("error.validation", "What the framework refuses is 400 with a text", source=_SERVE, level=Level.SHOULD)
async def validation(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(max_tokens="many"))).expect(400)
    check.matches(check.member(answer.json, "error"), "max_tokens", "the error")


@PROFILE.case("drops.structured_outputs", "structured_outputs are dropped", source=_SERVE, level=Level.INFO)
async def structured_outputs(target: Target) -> None:
    await asked.unconstrained(target, "structured_outputs", {"choice": [asked.CHOICE]})
