"""SGLang 0.4.6 and later: the OpenAI dialect; LoRAs are asked for as ``base:adapter``, rerank answers an array. (P)

Invariant: a LoRA is listed under the name by which it can be asked for (source: SGLang 0.5.23's serving layer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from adapters import constraint, dialect, vocabulary
from adapters.openai import OpenAI
from adapters.vllm import ALL_PATHS, NOT_OPENAI_ON_ENGINES
from adapters.whole import Ranked
from gateway.ports import Decoder
from gateway.types import Headers, InferenceRequest, ModelCard, Operation


class SGLang(OpenAI):
    """Model names are not checked by the engine: whatever is asked for, the loaded model answers under that name."""

    name = "sglang"
    title = "SGLang"
    rationed = None
    vocabulary = vocabulary.SGLang()
    paths = ALL_PATHS
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.but(
            dialect.EXTRAS, "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids",
            "stop_regex", "chat_template_kwargs", "skip_special_tokens",
        ),
    }  # fmt: skip
    constraints = constraint.SGLANG
    spoken = frozenset({"regex", "ebnf"})
    thoughts = "reasoning_content"

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return Ranked(request) if request.operation is Operation.RERANK else super().whole(request, headers)

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        return [
            msgspec.structs.replace(card, id=f"{card.parent}:{card.id}") if _bare(card) else card
            for card in super().parse_models(body)
        ]


def _bare(card: ModelCard) -> bool:
    return card.parent is not None and not card.id.startswith(f"{card.parent}:")
