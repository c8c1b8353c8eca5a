"""vLLM 0.6 and later: the OpenAI dialect, with members refused that it ignores without a word. (P)

Invariant: a request is refused by name rather than answered unconstrained (source: the request models of 0.6 to 0.33).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from adapters import constraint, dialect, vocabulary
from adapters.openai import OpenAI
from gateway.types import Endpoint, Operation

_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object")

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


class VLLM(OpenAI):
    """An endpoint labelled ``version`` with less than 0.12 keeps ``guided_*`` and ``best_of``; with less than 0.11.2 it
    gets Messages as chats, with less than 0.11 ``guided_*`` for ``structured_outputs``.
    """

    name = "vllm"
    title = "vLLM"
    rationed = None
    vocabulary = vocabulary.VLLM()
    paths = ALL_PATHS
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        "best_of": dialect.more_than_n,
        "typical_p": dialect.EXTRAS["typical_p"],
        "stop_regex": dialect.always,
    }
    constraints = constraint.VLLM
    spoken = frozenset({constraint.NESTED})

    def in_chats(self, endpoint: Endpoint | None = None) -> bool:
        return endpoint is None or (bool(endpoint.labels) and _older(_version(endpoint), (0, 11, 2)))

    def refuse(self, watched: dialect.Members, endpoint: Endpoint) -> None:
        if endpoint.labels and _older(_version(endpoint), (0, 12)):
            watched = {name: raw for name, raw in watched.items() if name != "best_of"}
        super().refuse(watched, endpoint)

    def constrained(self, operation: Operation, body: bytes, watched: dialect.Members, endpoint: Endpoint) -> bytes:
        version = _version(endpoint)
        if not version or not _older(version, (0, 12)):
            return super().constrained(operation, body, watched, endpoint)
        older = _older(version, (0, 11))
        found = constraint.foreign(watched, _GUIDED if older else (*_GUIDED, constraint.NESTED))
        writers = constraint.VLLM_BEFORE_0_11 if older else constraint.VLLM
        return constraint.written(self.title, found, writers, body) if found else body


def _version(endpoint: Endpoint) -> str:
    return dict(endpoint.labels).get("version", "")


def _older(version: str, than: tuple[int, ...]) -> bool:
    """Whether a version such as "0.11.2" precedes ``than``; an empty or odd one does not."""
    numbers = version.removeprefix("v").split(".")[: max(2, len(than))]
    return len(numbers) >= 2 and all(n.isdecimal() and len(n) < 10 for n in numbers) and tuple(map(int, numbers)) < than
