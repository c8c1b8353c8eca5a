"""Hugging Face's router: what its adapter takes for granted. (T)"""

from __future__ import annotations

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared import asked, providers
from conformance.suite import check
from conformance.suite.case import Level, Profile
from conformance.suite.target import CHAT, EMBEDDINGS, MODELS, Target

PROFILE = Profile(
    "engine/huggingface", "Hugging Face Inference Providers", deviations=DEVIATIONS.get("huggingface", {})
)

_DOCS = "Hugging Face docs, Inference Providers: chat completion"
_SELECTION = "Hugging Face docs, Inference Providers: provider selection"

providers.add_key(PROFILE, _DOCS, (401,), CHAT, providers.SAY)


@PROFILE.case("models", "Models are listed as org/name", source=_DOCS)
async def models(target: Target) -> None:
    cards = check.member((await target.ask(MODELS)).expect(200).json, "data")
    check.true(cards, "no model is listed")
    for card in cards:
        check.matches(card.get("id"), "^[^/]+/[^/]+$", "a model's id")


@PROFILE.case("suffix", "How a provider is chosen may stand behind the model", source=_SELECTION)
async def suffix(target: Target) -> None:
    name = target.setup.model.partition(":")[0]
    for choice in ("fastest", "cheapest"):
        await target.chatted(model=f"{name}:{choice}")


@PROFILE.case("provider", "Who answered is in x-inference-provider", source="observed", level=Level.INFO)
async def provider(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat())
    check.contains(answer.headers, "x-inference-provider", "the header")


@PROFILE.case("usage", "Streams tell usage in some chunk", source=_DOCS)
async def usage(target: Target) -> None:
    providers.sums(check.kind((await providers.streamed_usage(target)).usage, dict, "the stream's usage"))


@PROFILE.case("reasoning", "Thoughts are reasoning or reasoning_content", source=_DOCS, level=Level.SHOULD)
async def reasoning(target: Target) -> None:
    stream = await target.streamed(max_tokens=200)
    if not stream.reasoning():
        if "<think>" in stream.text():
            check.fail("thoughts stand in the answer", "a field of their own", stream.text())
        target.skip("this model does not think aloud")


@PROFILE.case("error.model", "A model nobody has is a 400 or 404 that says so", source=_DOCS)
async def model(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat(model=f"nobody/{asked.UNKNOWN}"))).expect(400, 404)
    check.contains(answer.text, f"nobody/{asked.UNKNOWN}", "the error")


@PROFILE.case("chats-only", "The router has no embeddings", source=_DOCS, level=Level.INFO)
async def chats_only(target: Target) -> None:
    answer = await target.ask(EMBEDDINGS, {"model": target.setup.model, "input": "a"})
    check.among(answer.status, (400, 404, 405), "the status")
