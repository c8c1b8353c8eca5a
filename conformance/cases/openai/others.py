"""What else a server offers beside OpenAI's API: looked at, told, held against nobody. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import Target

_TEXT = "The quick brown fox."


async def _offered(target: Target, path: str, document: dict[str, Any]) -> Any:
    answer = target.may_refuse(await target.ask(path, {"model": target.setup.model, **document}), "model")
    if answer.status != 200:
        target.skip(f"{path} answers {answer.status}: {check.shown(answer.text)[:120]}")
    target.note(f"{path} is offered")
    return answer.json


@PROFILE.case(
    "others.rerank", "Rerank, where offered, orders documents", source="Cohere API, rerank; Jina API", level=Level.INFO
)
async def rerank(target: Target) -> None:
    documents = ["A train leaves.", _TEXT]
    found = await _offered(target, "/v1/rerank", {"query": _TEXT, "documents": documents})
    results = found if isinstance(found, list) else check.kind(check.member(found, "results"), list, "results")
    check.equal(sorted(check.member(each, "index", "a result") for each in results), [0, 1], "the indices")
    scores = [check.kind(each.get("relevance_score", each.get("score")), (int, float), "a score") for each in results]
    check.equal(scores, sorted(scores, reverse=True), "the scores, best first,")


@PROFILE.case(
    "others.tokenize", "Tokenize, where offered, counts what it lists", source="vLLM 0.33, /tokenize", level=Level.INFO
)
async def tokenize(target: Target) -> None:
    found = await _offered(target, "/tokenize", {"prompt": _TEXT})
    tokens = check.kind(check.member(found, "tokens"), list, "tokens")
    check.equal(check.member(found, "count"), len(tokens), "count, against the tokens listed,")
