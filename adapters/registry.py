"""Which adapters there are, by engine name, and which one an engine that nobody named needs. (P)

Invariant: names are compared without regard to case; an engine is recognised by what only it answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from adapters.anthropic import Anthropic
from adapters.llamacpp import LlamaCpp
from adapters.providers import Compatible, DeepSeek, Gemini, HuggingFace, Ollama, Plain, TensorRT
from adapters.sglang import SGLang
from adapters.tgi import TGI
from adapters.vllm import VLLM
from gateway.ports import Adapter
from gateway.types import Headers

ENTRY_POINTS = "infer_gateway.adapters"
"""Third parties' group: an entry's name is the engine's, and what it names a class or function that, called without
arguments, returns an Adapter.
"""

BUILT_IN = (VLLM, SGLang, TGI, LlamaCpp, Ollama, TensorRT, Compatible, DeepSeek, Gemini, HuggingFace, Anthropic)

PROBES = ("/v1/models", "/version", "/get_model_info", "/info", "/props", "/api/version")
"""GET each of these to learn which engine answers; see `detect`."""


FIELDS: Mapping[str, Headers] = {"anthropic": ((b"anthropic-version", b"2023-06-01"),)}
"""Header fields without which an engine does not say what it serves, by engine."""


class Registry(Mapping[str, Adapter]):
    """Adapters by name; look-ups ignore case. Iteration gives names in lower case."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = {name.lower(): adapter for name, adapter in adapters.items()}

    def __getitem__(self, name: str) -> Adapter:
        return self._adapters[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._adapters

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)


def load(trusted: frozenset[str] = frozenset()) -> Registry:
    """All adapters: the built-in ones, then those other distributions register, which win over a built-in's name.

    ``trusted`` names steering members (`adapters.dialect.STEERING`) that clients may set. Raises ValueError for an
    adapter that cannot be had.
    """
    found: dict[str, Adapter] = {kind.name: kind(trusted) for kind in (*BUILT_IN, Plain)}
    found.update((entry.name, _loaded(entry)) for entry in entry_points(group=ENTRY_POINTS))
    return Registry(found)


def _loaded(entry: EntryPoint) -> Adapter:
    try:
        adapter: Adapter = entry.load()()
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise ValueError(f'adapter "{entry.name}" cannot be loaded from {entry.value}: {error}') from error
    return adapter


def detect(answers: Mapping[str, bytes]) -> str | None:
    """The engine that gave these answers (path → body of a 200), or None if nothing OpenAI-like is among them."""
    decoded = {path: _object(body) for path, body in answers.items()}
    info, props, listing = decoded.get("/info", {}), decoded.get("/props", {}), decoded.get("/v1/models", {})
    cards = listing.get("data")
    owners = (
        {str(card.get("owned_by")) for card in cards if isinstance(card, dict)} if isinstance(cards, list) else set()
    )
    if "model_path" in decoded.get("/get_model_info", {}) or "sglang" in owners:
        return "sglang"
    if "model_id" in info and "max_total_tokens" in info:
        return "tgi"
    if "default_generation_settings" in props or "llamacpp" in owners:
        return "llamacpp"
    if "vllm" in owners:
        return "vllm"
    if "version" in decoded.get("/api/version", {}):
        return "ollama"
    if owners & {"tensorrt_llm", "nvidia"}:
        return "trtllm"
    return "openai" if isinstance(listing.get("data"), list) else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
