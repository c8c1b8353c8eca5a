"""llama.cpp's server: the OpenAI dialect, context length in its model card. (P)

Invariant: chats and completions go through as they are (source: llama-server of autumn 2026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from adapters import dialect, vocabulary
from adapters.openai import OpenAI
from adapters.vllm import ALL_PATHS, GUIDED, NOT_OPENAI_ON_ENGINES
from gateway.types import ModelCard


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Card(msgspec.Struct):
    id: str
    meta: _Meta | None = None


class _Listing(msgspec.Struct):
    data: list[_Card]


class LlamaCpp(OpenAI):
    name = "llamacpp"
    title = "llama.cpp"
    rationed = None
    vocabulary = vocabulary.LlamaCpp()
    paths = ALL_PATHS
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **GUIDED,
        "best_of": dialect.more_than_n,
        "structured_outputs": dialect.always,
        "regex": dialect.always,
        "ebnf": dialect.always,
        "suffix": dialect.always,
    }

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        lengths = {c.id: c.meta.n_ctx for c in msgspec.json.decode(body, type=_Listing).data if c.meta is not None}
        cards = super().parse_models(body)
        return [msgspec.structs.replace(card, max_model_len=lengths.get(card.id)) for card in cards]
