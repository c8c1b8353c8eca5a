"""vLLM 0.9 and later: the OpenAI dialect, with members refused that newer versions ignore without a word. (P)

Invariant: a request is refused by name rather than answered unconstrained (source: vLLM 0.12's and 0.33's protocol).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from adapters import dialect, vocabulary
from adapters.openai import OpenAI
from gateway.types import Endpoint, Operation

_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object")
_SINCE_0_12 = frozenset({*_GUIDED, "best_of"})

ALL_PATHS: Mapping[Operation, bytes] = {operation: operation.value.encode() for operation in Operation}
"""vLLM and SGLang serve every operation where clients ask for it."""

NOT_OPENAI_ON_ENGINES: Mapping[str, dialect.Refuses] = {
    "functions": dialect.always,
    "function_call": dialect.always,
    "audio": dialect.always,
    "modalities": dialect.not_text_only,
    "web_search_options": dialect.always,
}
"""OpenAI members that open engines know nothing of and that change the answer."""

GUIDED: Mapping[str, dialect.Refuses] = dict.fromkeys(_GUIDED, dialect.always)


class VLLM(OpenAI):
    """An endpoint labelled ``version`` with less than 0.12 keeps ``guided_*`` and ``best_of``; with less than 0.11.2 it
    gets Messages as chats.
    """

    name = "vllm"
    title = "vLLM"
    rationed = None
    vocabulary = vocabulary.VLLM()
    paths = ALL_PATHS
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **GUIDED,
        "best_of": dialect.more_than_n,
        "regex": dialect.always,  # SGLang's; vLLM has structured_outputs
        "ebnf": dialect.always,
    }

    def in_chats(self, endpoint: Endpoint | None = None) -> bool:
        return endpoint is None or (bool(endpoint.labels) and _older(_version(endpoint), (0, 11, 2)))

    def refuse(self, watched: dialect.Members, endpoint: Endpoint) -> None:
        if endpoint.labels and _older(_version(endpoint), (0, 12)):
            watched = {name: raw for name, raw in watched.items() if name not in _SINCE_0_12}
        super().refuse(watched, endpoint)


def _version(endpoint: Endpoint) -> str:
    return dict(endpoint.labels).get("version", "")


def _older(version: str, than: tuple[int, ...]) -> bool:
    """Whether a version such as "0.11.2" precedes ``than``; an empty or odd one does not."""
    numbers = version.removeprefix("v").split(".")[: max(2, len(than))]
    return len(numbers) >= 2 and all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) < than
