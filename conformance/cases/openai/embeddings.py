"""Embeddings, where the server has them. (P)"""

from __future__ import annotations

import base64
import re
import struct
from typing import Any

from conformance.cases.openai.profile import EMBEDDING, PROFILE, PYTHON
from conformance.cases.openai.shapes import Embeddings, conform
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import EMBEDDINGS, Target

_NONE = re.compile(r"embedding|pooling|task|not support", re.IGNORECASE)


async def _asked(target: Target, input: Any, *params: str, **members: Any) -> Answer:
    """The answer; the case is skipped where this model gives no embeddings, or one of ``params`` is refused by name."""
    model = target.setup.embedding_model or target.setup.model
    document = {"model": model, "input": input, **members}
    answer = target.may_refuse(await target.ask(EMBEDDINGS, document), *params)
    said = answer.text if answer.status in (400, 422, 500) or '"error"' in answer.text[:10] else ""
    if not target.setup.embedding_model and _NONE.search(said):  # vLLM 0.12 says no with 200
        target.skip(f"{model} gives no embeddings; --embedding-model names one that does")
    return answer


async def _embedded(target: Target, input: Any = "Hello.", *params: str, **members: Any) -> Embeddings:
    answer = await _asked(target, input, *params, **members)
    found = conform(answer.expect(200).json, Embeddings, "the embeddings")
    check.equal([each.index for each in found.data], list(range(len(found.data))), "the indices, in order,")
    return found


def _floats(found: Embeddings, at: int = 0) -> list[float]:
    vector = found.data[at].embedding
    return check.kind(vector, list, "the embedding")


def _near(one: list[float], other: list[float], what: str) -> None:
    check.equal(len(other), len(one), f"the length of {what}")
    furthest = max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
    check.at_most(furthest, 0.01, f"the largest difference in {what}")


@PROFILE.case("embeddings.shape", "Embeddings have the published shape", source=f"{EMBEDDING}: the embedding object")
async def shape(target: Target) -> None:
    found = await _embedded(target)
    check.equal(len(found.data), 1, "the number of embeddings for one input")
    check.true(_floats(found), "the embedding is empty")


@PROFILE.case("embeddings.usage", "Usage counts the input's tokens", source=f"{EMBEDDING}: usage")
async def usage(target: Target) -> None:
    short, long = (await _embedded(target, "Hi.")).usage, (await _embedded(target, "Hello there. " * 20)).usage
    check.at_least(short.prompt_tokens, 1, "prompt_tokens")
    check.equal(short.total_tokens, short.prompt_tokens, "total_tokens, which are prompt_tokens,")
    check.at_least(long.prompt_tokens, short.prompt_tokens + 20, "prompt_tokens of an input 40 words longer")


@PROFILE.case("embeddings.several", "Several inputs give an embedding each, in order", source=f"{EMBEDDING}: input")
async def several(target: Target) -> None:
    texts = ["The sea is blue.", "Trains leave on time more often than not.", "日本語"]
    found = await _embedded(target, texts)
    check.equal(len(found.data), 3, "the number of embeddings for three inputs")
    _near(_floats(await _embedded(target, texts[1])), _floats(found, 1), "the second of three, against it alone")


@PROFILE.case(
    "embeddings.base64",
    "base64 is the same numbers as 32-bit floats",
    source=f"{EMBEDDING}: encoding_format; {PYTHON} asks for base64 where NumPy is there",
)
async def packed(target: Target) -> None:
    plain = _floats(await _embedded(target, "Hello.", encoding_format="float"))
    found = (await _embedded(target, "Hello.", "encoding_format", encoding_format="base64")).data[0].embedding
    text = check.kind(found, str, "the embedding asked for in base64")
    try:
        raw = base64.b64decode(text, validate=True)
        vector = list(struct.unpack(f"<{len(raw) // 4}f", raw))
    except (ValueError, struct.error) as error:
        check.fail(f"the embedding is not base64 of 32-bit floats: {error}", got=text)
    _near(plain, vector, "the base64 embedding, against the floats")


@PROFILE.case("embeddings.dimensions", "dimensions is the length of the embedding", source=f"{EMBEDDING}: dimensions")
async def dimensions(target: Target) -> None:
    found = await _embedded(target, "Hello.", "dimensions", "matryoshka", dimensions=8)
    check.equal(len(_floats(found)), 8, "the length of the embedding")


@PROFILE.case("embeddings.token-ids", "An input may be token ids", source=f"{EMBEDDING}: input")
async def token_ids(target: Target) -> None:
    found = await _embedded(target, [5, 6, 7], "input")
    check.equal(len(found.data), 1, "the number of embeddings for one list of ids")


@PROFILE.case(
    "embeddings.empty", "An empty list of inputs is refused with 400", source=f"{EMBEDDING}: input", level=Level.SHOULD
)
async def empty(target: Target) -> None:
    await _embedded(target)
    (await _asked(target, [])).expect(400, 422)


@PROFILE.case("embeddings.no-input", "A request without input is refused with 400", source=f"{EMBEDDING}: input")
async def no_input(target: Target) -> None:
    await _embedded(target)
    model = target.setup.embedding_model or target.setup.model
    (await target.ask(EMBEDDINGS, {"model": model})).expect(400, 422)
