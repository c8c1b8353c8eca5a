"""What a server is before any case runs: its engine, its version, its models. (T)

Invariant: detection never fails a run; what cannot be learned is left as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import trio

from conformance.suite.target import CHAT, MODELS, Setup, Target

_LATER = "max_completion_tokens"
PROBES = (MODELS, "/version", "/server_info", "/get_server_info", "/info", "/props", "/api/version")
_PATIENCE = 5.0
_OWN = {
    "sglang": ("/get_server_info", "tokenizer_path"),
    "tgi": ("/info", "max_total_tokens"),
    "llamacpp": ("/props", "default_generation_settings"),
    "ollama": ("/api/version", "version"),
}
"""Where an engine answers what no other does."""
_OWNERS = (("trtllm", "tensorrt_llm"), ("trtllm", "nvidia"), ("deepseek", "deepseek"), ("gemini", "google"))
"""By whom models are owned where nothing else tells."""

Documents = Mapping[str, Any]
"""Path → the JSON document of its 200."""


async def detect(setup: Setup) -> tuple[Setup, str]:
    """``setup`` with engine ("auto" replaced), version, models and model filled in; and what is odd about it, or ""."""
    target = Target(setup)
    found: dict[str, Any] = {}

    async def probe(path: str) -> None:
        with trio.move_on_after(_PATIENCE):
            try:
                answer = await target.ask(path, headers=_anthropic(setup) if path == MODELS else ())
                if answer.status == 200:
                    found[path] = json.loads(bytes(answer.body))
            except Exception:  # noqa: BLE001 — what is wrong there is told by the cases
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
    odd = _odd(setup, target, seen, models)
    return (completed if odd else await _limited(completed)), odd


async def _limited(setup: Setup) -> Setup:
    """Models that think may know ``max_tokens`` by its later name only, and refuse the other one by name."""
    if setup.engine not in ("openai", "gateway") or "limit" in setup.extra:
        return setup
    answer = None
    with trio.move_on_after(_PATIENCE), suppress(Exception):
        answer = await Target(setup).ask(CHAT, Target(setup).chat(max_tokens=1))
    if answer is None or answer.status != 400 or _LATER not in answer.text:
        return setup
    return msgspec.structs.replace(setup, extra={**setup.extra, "limit": _LATER})


def _anthropic(setup: Setup) -> list[tuple[str, str]]:
    """What Anthropic demands before it lists anything, beside what everybody else takes."""
    return [("anthropic-version", "2023-06-01"), *([("x-api-key", setup.key)] if setup.key else [])]


def _odd(setup: Setup, target: Target, seen: str, models: tuple[str, ...]) -> str:
    if not target.heard:
        return f"{setup.address.origin} does not answer"
    if seen and setup.engine not in ("auto", seen, "gateway") and seen != "openai":
        return f"this looks like {seen}, not {setup.engine}"
    if not models and any(t.answer and t.answer.status in (401, 403) for t in target.traces if MODELS[3:] in t.url):
        return "the server refuses the key" if setup.key else "the server demands a key: --api-key, or --api-key-env"
    if not setup.model and not models:
        where = "" if setup.address.root else "; or is a path missing in --url, as in https://…/v1beta/openai?"
        return f"the server lists no models: name one with --model{where}"
    if setup.model and models and setup.model not in models:
        return f"the server does not list {setup.model!r}"
    return ""


def engine(found: Documents) -> str:
    """By what only one engine answers; "" if nothing OpenAI-like did. A listing that names an engine on a server that
    does not answer as that engine is a gateway's.
    """
    listing = found.get(MODELS)
    cards = listing.get("data") if isinstance(listing, dict) else None
    cards = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else None
    owners = {str(card.get("owned_by")).lower() for card in cards or ()}
    own = next((name for name, (path, member) in _OWN.items() if member in _dict(found.get(path))), "")
    if own:
        return own
    if owners & {"vllm", "sglang", "llamacpp"}:
        return "vllm" if "vllm" in owners and "version" in _dict(found.get("/version")) else "gateway"
    for name, owner in _OWNERS:
        if owner in owners:
            return name
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
    data = _dict(document).get("data")
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    cards.sort(key=lambda card: card.get("parent") is not None)
    return tuple(card["id"] for card in cards if isinstance(card.get("id"), str))


def _dict(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _text(document: Any, name: str) -> str:
    value = _dict(document).get(name)
    return value if isinstance(value, str) else ""
