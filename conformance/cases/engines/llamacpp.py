"""llama.cpp's server: what its adapter, its scraper and its discovery take for granted. (T)

Sources: llama-server of autumn 2026 (b11549), and answers recorded from it.
"""

from __future__ import annotations

from typing import Any

import trio

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.aborts import ABORTS
from conformance.cases.engines.shared.held import held
from conformance.cases.engines.shared.metrics import METRICS, SEEN_S, settled
from conformance.cases.engines.shared.signals import Signals, patience, quiet
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, EMBEDDINGS, Target

PROFILE = Profile(
    "engine/llamacpp", "llama.cpp's server",
    deviations={
        **DEVIATIONS.get("llamacpp", {}),
        "llamacpp.abort.whole": "a whole answer is worked on to its end though its client has left",
    },
)  # fmt: skip

SIGNALS = Signals(
    mark="llamacpp:",
    off="--metrics",
    open=False,
    crowd=0,  # its few threads for HTTP are what streams hold, and the page needs one
    apart=True,
    running=["llamacpp:requests_processing"],
    waiting=["llamacpp:requests_deferred"],
    prompt=["llamacpp:prompt_tokens_total"],
    generated=["llamacpp:tokens_predicted_total"],
    hits=["llamacpp:prompt_tokens_cached_total"],
)
_SERVER = "llama-server of autumn 2026"
METRICS.add(PROFILE, SIGNALS, f"{_SERVER}, --metrics")
ABORTS.add(PROFILE, SIGNALS, f"{_SERVER}, the connection is looked at between chunks")

CONTEXT = r"exceeds the available context size|exceed_context_size"


# --- metrics ----------------------------------------------------------------------------------------------------------


@PROFILE.case("metrics.seconds", "The time of generating is counted", source=_SERVER, alone=True)
async def seconds(target: Target) -> None:
    name = "llamacpp:tokens_predicted_seconds_total"
    before = (await quiet(target, SIGNALS)).total([name])
    check.true(before is not None, f"there is no {name} on the metrics page")
    await target.chatted(max_tokens=16)
    after = (await settled(target, SIGNALS)).total([name])
    check.true(after is not None and after > (before or 0), f"{name} does not grow by an answer", f"> {before}", after)


@PROFILE.case("slots", "/slots shows which slots work", source=f"{_SERVER}, --slots", level=Level.SHOULD, alone=True)
async def slots(target: Target) -> None:
    async def busy() -> int:
        answer = await target.ask("/slots")
        if answer.status == 501:
            target.skip("started without --slots")
        return sum(check.kind(check.member(each, "is_processing"), bool, "is_processing")
                   for each in check.kind(answer.expect(200).json, list, "the slots"))  # fmt: skip

    await quiet(target, SIGNALS)
    most = 0
    async with held(target, 1) as requests:
        deadline = trio.current_time() + patience(target, SEEN_S)
        while not most and not requests.over and trio.current_time() < deadline:
            most = await busy()
            await trio.sleep(0.02)
    if not most and requests.over:
        target.skip("too fast to be observed")
    check.equal(most, 1, "the number of slots that work for one request")


# --- what it is and serves --------------------------------------------------------------------------------------------


@PROFILE.case("health", "/health is 200 once the model is loaded", source=f"{_SERVER}, README")
async def health(target: Target) -> None:
    answer = await target.ask("/health", key="")
    check.equal(check.member(answer.expect(200).json, "status"), "ok", "the status")


@PROFILE.case("props", "/props has the default settings and the build", source=f"{_SERVER}, README")
async def props(target: Target) -> None:
    found = (await target.ask("/props")).expect(200).json
    check.kind(check.member(found, "default_generation_settings"), dict, "default_generation_settings")
    target.note(f"build {found.get('build_info')}, {found.get('total_slots')} slots")


@PROFILE.case("models", "The model is listed as llama.cpp's, with its context length", source=_SERVER)
async def models(target: Target) -> None:
    found = await asked.card(target, target.setup.model)
    check.equal(found.get("owned_by"), "llamacpp", "owned_by, by which llama.cpp is recognised,")
    check.at_least(check.kind(check.member(found, "meta.n_ctx", "the card"), int, "n_ctx"), 1, "n_ctx")


@PROFILE.case("tokenize", "/tokenize reads content, /detokenize gives it back", source=f"{_SERVER}, README")
async def tokenize(target: Target) -> None:
    text = "Hello there, tell me a story."
    tokens = check.member((await target.ask("/tokenize", {"content": text})).expect(200).json, "tokens")
    check.true(check.kind(tokens, list, "the tokens"), "a text has no tokens", "some numbers", tokens)
    made = (await target.ask("/detokenize", {"tokens": tokens})).expect(200).json
    check.equal(check.member(made, "content").strip(), text, "the text made of its tokens")


@PROFILE.case(
    "tokenize.prompt", "/tokenize knows no prompt: an adapter has to write content", source=_SERVER, level=Level.INFO
)
async def tokenize_prompt(target: Target) -> None:
    made = (await target.ask("/tokenize", {"prompt": "Hello there."})).expect(200).json
    check.equal(check.member(made, "tokens"), [], "the tokens of a prompt")


@PROFILE.case("embeddings", "Without --embeddings they are 501", source=_SERVER, level=Level.INFO)
async def embeddings(target: Target) -> None:
    answer = await target.ask(EMBEDDINGS, {"model": target.setup.model, "input": "Hello"})
    if answer.status == 200:
        target.skip("started with --embeddings")
    check.equal(answer.status, 501, "the status")


@PROFILE.case("messages", "A Messages stream ends with message_stop", source=f"{_SERVER}, /v1/messages")
async def messages(target: Target) -> None:
    await asked.messages_stream(target)


@PROFILE.case("idle", "An idle connection is kept for two seconds", source=f"{_SERVER}, Keep-Alive: timeout=5")
async def idle(target: Target) -> None:
    await asked.idle(target)


@PROFILE.case("unknown-model", "Any model's name is answered, with the own one", source=_SERVER, level=Level.INFO)
async def unknown_model(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(model=asked.UNKNOWN))).expect(200)
    check.true(answer.json.get("model") != asked.UNKNOWN, "the name is echoed now", "the served name", asked.UNKNOWN)


# --- answers ----------------------------------------------------------------------------------------------------------


@PROFILE.case("stream.role", "A stream's first chunk has the role and a null text", source=_SERVER, level=Level.INFO)
async def role_first(target: Target) -> None:
    first = check.member((await target.streamed()).chunks, "0.choices.0.delta", "the stream")
    check.equal(first, {"role": "assistant", "content": None}, "the first delta")


@PROFILE.case("stream.timings", "A stream's last chunk tells the timings", source=_SERVER, level=Level.SHOULD)
async def timings(target: Target) -> None:
    last = (await target.streamed()).chunks[-1]
    for member in ("cache_n", "prompt_n", "predicted_n"):
        check.kind(check.member(last, f"timings.{member}", "the last chunk"), int, member)


@PROFILE.case("usage.cached", "Usage tells the cached tokens", source=_SERVER, level=Level.SHOULD, alone=True)
async def cached(target: Target) -> None:
    text = "A prompt that comes twice, and is long enough to be remembered. " * 4
    for _ in range(2):
        answer = await target.chatted(text)
        found = check.kind(check.member(answer, "usage.prompt_tokens_details.cached_tokens"), int, "cached_tokens")
    check.at_least(found, 1, "cached_tokens of a prompt that came before")


@PROFILE.case(
    "stream.tools", "A stream with tools offered ends with a reason, or an error that says why", source=_SERVER
)
async def stream_tools(target: Target) -> None:
    stream = await target.streamed(tools=[asked.TOOL], tool_choice="auto", max_tokens=24)
    if not stream.errors:
        check.equal(len(stream.finish()), 1, "the number of finish reasons")
        return
    error = check.kind(stream.errors[0]["error"], dict, "the error inside the stream")
    check.kind(error.get("message"), str, "its message")
    target.note(f"what the model said was no call: {error.get('message')}")


# --- refusals ---------------------------------------------------------------------------------------------------------


@PROFILE.case("error.context", "A prompt longer than the context is 400 and says so, streamed or not", source=_SERVER)
async def context(target: Target) -> None:
    for stream in (False, True):
        answer = await asked.too_long(target, stream=stream)
        check.matches(answer.expect(400).text, CONTEXT, "the error")
        check.equal(asked.errors_of(answer).get("type"), "exceed_context_size_error", "the error's type")


@PROFILE.case("error.no-route", "A path that is not served is 404 and says no more", source=_SERVER)
async def no_route(target: Target) -> None:
    await asked.no_route(target)


@PROFILE.case("error.shape", "Errors are nested, with the status as code", source=_SERVER, level=Level.SHOULD)
async def error_shape(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(max_tokens="many"))).expect(400)
    check.true(answer.error.get("message"), "the error has no message", "a text", answer.error)
    check.equal(check.kind(answer.error.get("code"), int, "the error's code"), 400, "the error's code")


@PROFILE.case("error.key", "A wrong key is 401", source=f"{_SERVER}, --api-key")
async def wrong_key(target: Target) -> None:
    if not target.setup.key:
        target.skip("needs --api-key: a server that demands one")
    (await target.ask(CHAT, target.chat(), key="sk-wrong")).expect(401)


# --- what it drops ----------------------------------------------------------------------------------------------------


def _drops(name: str, value: Any) -> None:
    @PROFILE.case(
        f"drops.{name}", f"{name} is dropped without a word: an adapter has to refuse it", source=_SERVER,
        level=Level.INFO,
    )  # fmt: skip
    async def dropped(target: Target) -> None:
        await asked.unconstrained(target, name, value)


_drops("guided_regex", asked.CHOICE)
_drops("structured_outputs", {"choice": [asked.CHOICE]})
_drops("regex", asked.CHOICE)
