"""What vLLM is and serves beside chats. (T)"""

from __future__ import annotations

import secrets

from conformance.cases.engines.shared import asked
from conformance.cases.engines.vllm.profile import API, PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target


@PROFILE.case("health", "/health is 200 and cheap", source="vLLM 0.33, /health")
async def health(target: Target) -> None:
    answer = await target.ask("/health", key="")
    answer.expect(200)


@PROFILE.case("version", "/version tells the release", source="vLLM 0.33, /version", level=Level.SHOULD)
async def version(target: Target) -> None:
    answer = await target.ask("/version", key="")
    check.matches(check.member(answer.expect(200).json, "version"), r"^v?\d+\.\d+", "the version")


@PROFILE.case("models", "Models are listed as vLLM's, with their context length", source="vLLM 0.33, /v1/models")
async def models(target: Target) -> None:
    card = await asked.card(target, target.setup.model)
    check.equal(card.get("owned_by"), "vllm", "owned_by, by which vLLM is recognised,")
    if card.get("parent") is None:
        check.at_least(check.kind(card.get("max_model_len"), int, "max_model_len"), 1, "max_model_len")


@PROFILE.case("tokenize", "/tokenize and /detokenize are each other's inverse", source="vLLM 0.33, /tokenize")
async def tokenize(target: Target) -> None:
    text = "Hello there, tell me a story."
    answer = await target.ask("/tokenize", {"model": target.setup.model, "prompt": text, "add_special_tokens": False})
    made = answer.expect(200).json
    tokens = check.kind(check.member(made, "tokens"), list, "tokens")
    check.equal(check.member(made, "count"), len(tokens), "count, beside the number of tokens,")
    answer = await target.ask("/detokenize", {"model": target.setup.model, "tokens": tokens})
    check.equal(check.member(answer.expect(200).json, "prompt").strip(), text, "the text made of its tokens")


@PROFILE.case("rerank", "Rerank answers an object with results", source="vLLM 0.33, /v1/rerank", level=Level.SHOULD)
async def rerank(target: Target) -> None:
    results = check.kind(check.member(await asked.reranked(target), "results"), list, "results")
    check.equal(sorted(check.member(each, "index") for each in results), [0, 1, 2], "the documents' numbers")
    check.kind(check.member(results[0], "relevance_score"), float, "relevance_score")


@PROFILE.case("messages", "A Messages stream ends with message_stop", source="vLLM 0.11.2, /v1/messages")
async def messages(target: Target) -> None:
    await asked.messages_stream(target)


@PROFILE.case("request-id", "X-Request-Id becomes part of the answer's id", source=API, level=Level.SHOULD)
async def request_id(target: Target) -> None:
    id = f"conformance-{secrets.token_hex(6)}"
    answer = await target.ask(CHAT, target.chat(max_tokens=2), headers=[("x-request-id", id)])
    check.contains(check.member(answer.expect(200).json, "id"), id, "the answer's id")
    echoed = answer.headers.get("x-request-id")
    target.note("X-Request-Id is answered, too" if echoed == id else "X-Request-Id is not answered")


@PROFILE.case("idle", "An idle connection is kept for two seconds", source="vLLM 0.33, VLLM_HTTP_TIMEOUT_KEEP_ALIVE=5")
async def idle(target: Target) -> None:
    await asked.idle(target)
