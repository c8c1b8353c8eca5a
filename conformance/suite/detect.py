"""What a server is before any case runs: its engine, its version, its models. (T)

Invariant: detection never fails a run; what cannot be learned is left as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from conformance.suite.check import Failure
from conformance.suite.target import MODELS, Setup, Target

PROBES = (MODELS, "/version", "/server_info", "/get_server_info", "/info", "/props", "/api/version")
_PATIENCE = 5.0

Documents = Mapping[str, Any]
"""Path → the JSON document of its 200."""


async def detect(setup: Setup) -> tuple[Setup, str]:
    """``setup`` with engine ("auto" replaced), version, models and model filled in; and what is odd about it, or ""."""
    target = Target(setup)
    found: dict[str, Any] = {}

    async def probe(path: str) -> None:
        with trio.move_on_after(_PATIENCE):
            try:
                answer = await target.ask(path)
                if answer.status == 200:
                    found[path] = json.loads(bytes(answer.body))
            except (Failure, ValueError, RecursionError):
                pass

    async with trio.open_nursery() as nursery:
        for path in PROBES:
            nursery.start_soon(probe, path)
    seen = engine(found)
    named = seen if setup.engine == "auto" else setup.engine
    models = listed(found.get(MODELS)) or tuple(filter(None, [_text(found.get("/info"), "model_id")]))
    completed = msgspec.structs.replace(
        setup,
        engine=named or "openai",
        version=setup.version or version(found, named or ""),
        models=models,
        model=setup.model or (models[0] if models else "model"),
    )
    return completed, _odd(setup, target, seen, models)


def _odd(setup: Setup, target: Target, seen: str, models: tuple[str, ...]) -> str:
    if not target.heard:
        return f"{setup.address.origin} does not answer"
    if seen and setup.engine not in ("auto", seen, "gateway") and seen != "openai":
        return f"this looks like {seen}, not {setup.engine}"
    if not setup.model and not models:
        return "the server lists no models: name one with --model"
    if setup.model and models and setup.model not in models:
        return f"the server does not list {setup.model!r}"
    return ""


def engine(found: Documents) -> str:
    """By what only one engine answers; "" if nothing OpenAI-like did."""
    cards = found[MODELS].get("data") if isinstance(found.get(MODELS), dict) else None
    cards = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else None
    owners = {str(card.get("owned_by")).lower() for card in cards or ()}
    if "sglang" in owners or any("tokenizer_path" in _dict(found.get(p)) for p in ("/server_info", "/get_server_info")):
        return "sglang"
    if "max_total_tokens" in _dict(found.get("/info")):
        return "tgi"
    if "default_generation_settings" in _dict(found.get("/props")) or "llamacpp" in owners:
        return "llamacpp"
    if "vllm" in owners:
        return "vllm"
    if "version" in _dict(found.get("/api/version")):
        return "ollama"
    if owners & {"tensorrt_llm", "nvidia"}:
        return "trtllm"
    if cards and all(card.get("type") == "model" for card in cards):
        return "anthropic"
    return "openai" if cards is not None else ""


def version(found: Documents, name: str) -> str:
    """As the engine tells it; "" where it does not."""
    sources = {
        "vllm": (("/version", "version"),),
        "sglang": (("/server_info", "version"), ("/get_server_info", "version"), ("/version", "version")),
        "tgi": (("/info", "version"),),
        "llamacpp": (("/props", "build_info"),),
        "ollama": (("/api/version", "version"),),
        "trtllm": (("/version", "version"),),
    }
    told = (_text(found.get(path), member) for path, member in sources.get(name, ()))
    return next(filter(None, told), "")


def listed(document: Any) -> tuple[str, ...]:
    """The ids of a model listing, LoRAs last."""
    cards = [card for card in _dict(document).get("data") or () if isinstance(card, dict)]
    cards.sort(key=lambda card: card.get("parent") is not None)
    return tuple(card["id"] for card in cards if isinstance(card.get("id"), str))


def _dict(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _text(document: Any, name: str) -> str:
    value = _dict(document).get(name)
    return value if isinstance(value, str) else ""
